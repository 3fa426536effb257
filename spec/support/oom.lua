-- SPDX-License-Identifier: MIT
-- Out of memory: the 1st, 2nd, 3rd... allocation of a scenario fails until it succeeds untouched.
-- Each failure is an error that says so; nothing crashes or leaks, and the loop is usable after it.
--
-- The stock interpreter cannot do this, so a scenario runs in the test host (spec/host/host.c),
-- each time in a Lua state of its own.

local support = require "spec.support"

local oom = {}

-- Runs a scenario for every n, and prints how many allocations it makes.
local DRIVER = [[
  local path, times = ...
  times = math.tointeger(tonumber(times))
  local file <close> = assert(io.open(path))
  local code = file:read "a"
  local n = 1
  while true do
    local failed, ok, message = testhost.run(code, n, times)
    if failed == 0 then
      assert(ok, message)
      break
    end
    if not ok and not message:find("not enough memory", 1, true) then
      error(("failing allocation %d gave: %s"):format(n, message), 0)
    end
    n = n + 1
  end
  print(n - 1)
]]

-- Around a scenario: what it may use, and that the loop works after a failure.
local FRAME = [[
  local concur = require "concur"
  local errors = require "concur.errors"
  local runner = concur.Runner { clock = concur.testing.Clock(), on_error = function() end }
  local function scenario()
    %s
  end
  scenario() -- once untouched: what is loaded on first use is there
  arm()
  local ok, err = pcall(scenario)
  disarm()
  assert(runner:run(function()
    concur.sleep(1)
    return concur.gather(function() concur.sleep(1) return 7 end)
  end) == 7, "the loop is not usable")
  assert(#concur.all_tasks() == 0, "a task is left")
  if not ok then
    error(tostring(err), 0)
  end
]]

-- With `times` failures in a row, or without end: one more than Lua's own retry after a collection
-- is a shortage that passes, and clean-up has memory again; without end it has not.
function oom.fails_cleanly(code)
  for _, times in ipairs { "2", "all" } do
    local directory = support.tmpdir()
    support.write_file(directory .. "/scenario.lua", code)
    support.write_file(directory .. "/driver.lua", DRIVER)
    local result = support.execute(
      { support.host, directory .. "/driver.lua", directory .. "/scenario.lua", times },
      {
        timeout = 120,
        env = {
          LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
          LUA_CPATH = support.build .. "/?.so;;",
        },
      })
    if result.code ~= 0 then
      error(support.describe(result), 0)
    elseif math.tointeger(result.stdout) < 1 then
      error("the scenario allocates nothing", 0)
    end
  end
end

---Runs the body of a scenario, framed, in the same way. It may use `concur`, `errors` and `runner`.
---@param body string
function oom.scenario_fails_cleanly(body)
  oom.fails_cleanly(FRAME:format(body))
end

return oom
