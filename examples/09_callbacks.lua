-- SPDX-License-Identifier: MIT
-- The bridge from callbacks to waiting, in both directions: suspend, and done callbacks.

local concur = require "concur"

-- An API in the old style: calls back later; what it returns stops it.
local function fetch(url, on_done, on_error)
  local handle = concur.get_event_loop():call_later(0.05, function()
    if url:find "^https://" then
      on_done("contents of " .. url, 200)
    else
      on_error("cannot fetch " .. url)
    end
  end)
  return function()
    handle:cancel()
  end
end

-- The same as a function that waits, returns its results, and can be cancelled.
local function get(url)
  return concur.suspend(function(resume, fail)
    local stop = fetch(url, resume, fail)
    return stop -- called when the task is cancelled
  end)
end

concur.run(function()
  local body, status = get "https://example.org"
  print(status, body)
  assert(status == 200)

  local ok, err = pcall(get, "gopher://example.org")
  print(ok, err)
  assert(not ok and err == "cannot fetch gopher://example.org")

  -- And back: a callback for when a task is done.
  local seen
  local task = concur.spawn(get, "https://example.com")
  task:add_done_callback(function(t)
    seen = t:state()
  end)
  task:result()
  concur.sleep(0) -- callbacks come at the loop's next turn
  print("the callback saw:", seen)
  assert(seen == "done")
end)
