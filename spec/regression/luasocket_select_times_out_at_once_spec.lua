-- SPDX-License-Identifier: MIT
-- `select` of the LuaSocket objects returned "timeout" at once when it could not wait, for want of a
-- descriptor: a loop around it would have spun. LuaSocket's raises an error then. And with a stream
-- that was closed, which LuaSocket's does not look at.

local concur = require "concur"
local support = require "spec.support"
local testing = require "concur.testing"

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

  it("waits as long as it was told when a stream is closed", function()
    local socket = require "concur.compat.socket"
    testing.run(function()
      local server <close> = assert(socket.bind("127.0.0.1", 0))
      local _, port = server:getsockname()
      local client = assert(socket.connect("127.0.0.1", port))
      local served <close> = assert(server:accept())
      client:close()
      assert.equal("closed", select(2, served:receive())) -- the end has arrived: all is quiet
      local start = concur.now()
      local readers, writers, err = socket.select({ client }, { client }, 3)
      assert.same({ {}, {}, "timeout" }, { readers, writers, err })
      assert.equal(3, concur.now() - start)
    end)
  end)
end)
