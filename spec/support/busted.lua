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

-- `make shuffle`: another order of ready tasks, and threads that are held up, by this seed.
local testhost = _G.testhost
local seed = testhost and math.tointeger(tonumber(os.getenv "CONCUR_SHUFFLE"))
local in_order = require "spec.support.in_order"

local before, current

-- The name with those of the describes around it, as busted prints it.
local function full_name(element)
  local names = {}
  while element and element.descriptor ~= "file" do
    table.insert(names, 1, element.name)
    element = busted.parent(element)
  end
  return table.concat(names, " ")
end

local function keeps_order(element)
  local subject = element.trace.source:match "([%w_]+)_spec%.lua$"
  local name = full_name(element)
  for _, listed in ipairs(in_order[subject] or {}) do
    if listed == name then
      return true
    end
  end
  return false
end

-- A subscriber returns nil, true: else busted's own subscribers do not hear of the event.
busted.subscribe({ "test", "start" }, function(element)
  current = element
  support.current_name = full_name(element)
  if seed then
    testhost.delay(seed)
    require "concur.core".shuffle(not keeps_order(element) and seed or nil)
  end
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
