-- SPDX-License-Identifier: MIT
-- Loaded by busted before any spec (see .busted): after each spec nothing may be left alive, and a
-- failing one shows the seed that it used.

local busted = require "busted"
local support = require "spec.support"

-- Loaded here, so that busted, which forgets the modules that a spec file loaded, keeps one copy.
-- The first loop of a process also opens two descriptors that libuv keeps to its end, and the first
-- thread under ThreadSanitizer starts one of the sanitizer's own.
local concur = require "concur"
concur.to_thread(type, nil)
concur.get_event_loop():close()

local before, current

-- A subscriber returns nil, true: else busted's own subscribers do not hear of the event.
busted.subscribe({ "test", "start" }, function(element)
  current = element
  return nil, true
end)

busted.before_each(function()
  support.last_seed = nil
  before = support.snapshot()
end)

busted.after_each(function()
  local lines = support.leaks(before)
  support.remove_tmpdirs()
  if #lines > 0 then
    local where = current.trace.source:gsub("^@", "") .. ":" .. current.trace.currentline
    error(("%s: '%s' left behind:\n  %s"):format(where, current.name,
      table.concat(lines, "\n  ")), 0)
  end
end)

local function show_seed(element)
  if support.last_seed and element == current then
    io.stderr:write(("\n'%s' failed with seed %d; run it again with CONCUR_SEED=%d\n"):format(
      element.name, support.last_seed, support.last_seed))
  end
  return nil, true
end

busted.subscribe({ "failure", "it" }, show_seed)
busted.subscribe({ "error", "it" }, show_seed)
