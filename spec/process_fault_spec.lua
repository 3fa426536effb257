-- SPDX-License-Identifier: MIT
-- Programs and signals while memory, descriptors and processes are refused, and system calls are
-- interrupted. How it works: spec/support/faults.lua.

local faults = require "spec.support.faults"

local REFUSED = { "not enough memory", "ENOMEM", "EMFILE", "EAGAIN" }
local NONE = { "there is no such error" }

local function scenario(name, functions, allowed, body)
  it(name, function()
    local times = allowed == NONE and { "1", "7" } or nil
    faults.fail_cleanly(faults.frame(body, { real = true }), functions, allowed, { times = times })
  end)
end

local RUN = [[
  concur.run(function()
    local result, err = concur.process.run { "cat; echo end >&2", shell = true, input = "text" }
    if not result then error(err, 0) end
    -- the last pipe is one that libuv makes in the child, before the program; it aborts without
    if result.signal == "SIGABRT" then return end
    assert(result.stdout == "text" and result.stderr == "end\n" and result.code == 0)
  end)
]]

describe("process.run", function()
  scenario("is refused memory", faults.memory, REFUSED, RUN)
  scenario("is refused pipes", "pipe2", REFUSED, RUN)
  scenario("is refused processes", "fork", REFUSED, RUN)
  scenario("is interrupted", faults.interrupted, NONE, RUN)
end)

describe("process.spawn", function()
  scenario("is refused memory", faults.memory, REFUSED, [[
    concur.run(function()
      local child <close> = assert(concur.process.spawn { "sh", "-c", "echo x; exit 3",
        env = { A = "b" } })
      local line, err = child.stdout:read "l"
      if not line then error(err or "not enough memory", 0) end
      assert(child:wait() == 3)
    end)
  ]])
end)

describe("signal.receive", function()
  local RECEIVE = [[
    concur.run(function()
      local it <close> = concur.signal.receive("SIGWINCH", "SIGCONT")
      local other <close> = concur.signal.receive "SIGWINCH"
      local task = concur.spawn(other)
      concur.sleep(0)
      concur.signal.raise "SIGWINCH"
      assert(it() == "SIGWINCH" and task:result() == "SIGWINCH")
    end)
  ]]
  scenario("is refused memory", faults.memory .. " uv_async_init", REFUSED, RECEIVE)
  scenario("is refused the handler", "sigaction", { "receiving signals" }, RECEIVE)
end)
