-- SPDX-License-Identifier: MIT
-- `select` of the LuaSocket objects returned "timeout" at once when it could not wait, for want of a
-- descriptor: a loop around it would have spun. LuaSocket's raises an error then.

local support = require "spec.support"

describe("select of LuaSocket's objects", function()
  it("raises when it cannot wait", function()
    support.check_lua([[
      local concur = require "concur"
      local socket = require "concur.compat.socket"
      concur.run(function()
        local server = assert(socket.bind("127.0.0.1", 0))
        local reader = assert(socket.udp())
        assert(reader:setsockname("127.0.0.1", 0))
        testhost.fail(" fcntl uv_poll_start ", 1)
        local ok, err = pcall(socket.select, { reader }, nil, 10)
        assert(testhost.fail() > 0)
        assert(not ok and tostring(err):find "select failed", tostring(err))
        reader:close()
        server:close()
      end)
    ]], { lua = support.host, env = { LUA_CPATH = support.build .. "/faults/?.so;;" } })
  end)
end)
