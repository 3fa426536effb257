-- SPDX-License-Identifier: MIT
-- Two functions that each wait for half a second take half a second together.

local concur = require "concur"

local function brew(what, seconds)
  print("start:  " .. what)
  concur.sleep(seconds)
  print("ready:  " .. what)
  return what
end

concur.run(function()
  local start = concur.now()

  local first, second = concur.gather(
    function() return brew("coffee", 0.5) end,
    function() return brew("toast", 0.5) end)

  local took = concur.now() - start
  print(("%s and %s, after %.1f s"):format(first, second, took))

  assert(first == "coffee" and second == "toast")
  assert(took >= 0.5 and took < 0.95, "one after the other would have taken 1 s")
end)
