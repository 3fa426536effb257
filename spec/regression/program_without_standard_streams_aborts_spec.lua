-- SPDX-License-Identifier: MIT
-- Symptom: a program that was started with stdin, stdout or stderr closed died by SIGABRT in its first
-- run: libuv's loop got descriptors from 0 to 2, and libuv refuses to close these.

local support = require "spec.support"

describe("a program without standard streams", function()
  it("runs, and starts programs and workers", function()
    local path = support.tmpdir()
    support.write_file(path .. "/script.lua", [[
      local concur = require "concur"
      local sum = concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(1)
        return pool:run(function(a, b) return a + b end, 1, 2)
      end)
      local result = concur.process.run { "cat", input = "text" }
      concur.get_event_loop():close()
      local file <close> = assert(io.open(..., "w"))
      file:write(sum, " ", result.stdout)
    ]])
    for _, closed in ipairs { "<&- >&- 2>&-", "<&-", ">&-", "2>&-" } do
      local result = support.execute({ "sh", "-c", 'exec "$0" "$@" ' .. closed, support.lua,
        path .. "/script.lua", path .. "/result" }, { env = {
          LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
          LUA_CPATH = support.build .. "/?.so;;",
        } })
      assert.equal(0, result.code, closed .. ": " .. support.describe(result))
      assert.equal("3 text", support.read_file(path .. "/result"))
    end
  end)

  it("may close them, and others, while it runs", function()
    local result = support.run_lua [[
      local files = { assert(io.open "/dev/null"), assert(io.open "/dev/null") }
      local concur = require "concur"
      concur.run(concur.sleep, 0)
      files[1]:close() -- now two of the lowest numbers are free ...
      files[2]:close()
      local pool <close> = concur.ProcessPoolExecutor(1)
      assert(pool:run(math.abs, -4) == 4)
      io.stdin:close() -- ... and now others
      io.stdout:close()
      assert(concur.process.run({ "cat", input = "text" }).stdout == "text")
      assert(concur.ProcessPoolExecutor(1):run(math.abs, -5) == 5)
      local net = require "concur.net"
      local one, other = net.socketpair()
      one:write "end"
      io.stderr:write(other:read(3))
    ]]
    assert.equal("end", result.stderr, support.describe(result))
    assert.equal(0, result.code)
  end)
end)
