-- SPDX-License-Identifier: MIT
-- A host with a loop of its own that did as it is told (step, then wait for `fd` for at most
-- `next_timeout`) hung: next_timeout knew nothing of
-- * descriptors that the step had begun to wait for: libuv watches them from the next step on;
-- * timers of libuv's own: a process pool's worker that may be started later, a process that is ended;
-- * handles that are to be closed before the loop can end.

local support = require "spec.support"

local function host(script)
  local path = support.tmpdir() .. "/script.lua"
  support.write_file(path, script)
  local result = support.execute({ "timeout", tostring(20 * support.time_scale),
    support.build .. "/capi_host", path }, { env = {
    LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
    LUA_CPATH = support.build .. "/?.so;;",
    INTERPRETER = support.lua,
  } })
  assert.equal(0, result.code, support.describe(result))
  return result.stdout
end

-- Long enough for the host's own clock to have ended: it makes a step for each tick.
local PRELUDE = [[
  local concur = require "concur"
  local function main(body)
    concur.spawn(function()
      concur.sleep(0.2)
      print(select(2, concur.pcall(body)))
    end)
  end
]]

describe("a host that waits for the descriptor and the time-out of the loop", function()
  it("has the result of a worker that one step has started", function()
    assert.matches("the result is 7\n", host(PRELUDE .. [[
      main(function()
        local pool <close> = concur.ProcessPoolExecutor {
          workers = 1, command = os.getenv "INTERPRETER" }
        return "the result is " .. pool:run(math.abs, -7)
      end)]]))
  end)

  it("sees the job through for which a worker may be started later", function()
    assert.matches("WorkerCrashed: .*exit code 3", host(PRELUDE .. [[
      main(function()
        local pool <close> = concur.ProcessPoolExecutor {
          workers = 1, command = os.getenv "INTERPRETER" }
        return pool:options { retry = 3 }:run(os.exit, 3)
      end)]]))
  end)

  it("ends after a process has", function()
    assert.matches("it was 0\n", host(PRELUDE .. [[
      main(function()
        return "it was " .. require("concur.process").run({ "sleep", "0.01" }).code
      end)]]))
  end)
end)

describe("next_timeout", function()
  it("is 0 as long as a descriptor is not watched yet", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local loop = concur.get_event_loop()
      print(loop:next_timeout())
      local pool = concur.ProcessPoolExecutor { workers = 1, queue_size = 1 }
      local job = pool:submit(math.abs, -7)
      print(loop:next_timeout())
      print(job:result())
    ]]
    assert.equal("nil\n0.0\n7\n", result.stdout, support.describe(result))
  end)
end)
