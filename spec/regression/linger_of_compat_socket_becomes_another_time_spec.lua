-- SPDX-License-Identifier: MIT
-- `setoption` of concur.compat.socket cast numbers to C types that they did not fit into: a linger of
-- 70,000 seconds became one of 4,464, and what the others became C leaves open.

local concur = require "concur"
local socket = require "concur.compat.socket"

local function with_client(fn)
  return concur.run(function()
    local server <close> = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local client <close> = assert(socket.connect("127.0.0.1", port))
    return fn(client)
  end)
end

describe("setoption of concur.compat.socket", function()
  it("keeps a long linger as it is", function()
    local linger = with_client(function(client)
      assert(client:setoption("linger", { on = true, timeout = 70000 }))
      local got = client:getoption "linger"
      client:setoption("linger", { on = false, timeout = 0 })
      return got
    end)
    assert.same({ on = true, timeout = 70000 }, linger)
  end)

  it("takes a number that is too large for the largest", function()
    with_client(function(client)
      local before = client:getoption "tcp-keepidle"
      for _, number in ipairs { 1e300, -1e300, math.huge, -math.huge, 0 / 0 } do
        assert.same({ nil, "setsockopt failed" }, { client:setoption("tcp-keepidle", number) })
      end
      assert.equal(before, client:getoption "tcp-keepidle")
    end)
  end)
end)
