-- SPDX-License-Identifier: MIT
-- `receive` of concur.compat.socket, cancelled in the middle of a line or a count, lost what it had
-- taken so far.

local concur = require "concur"
local socket = require "concur.compat.socket"

-- Calls `receive(...)` while only the first half is there, cancels it, and returns what a second
-- call gets when all of it is.
local function receive_twice(first, second, ...)
  local pattern, prefix = ...
  return concur.run(function()
    local server <close> = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local client <close> = assert(socket.connect("127.0.0.1", port))
    local peer <close> = assert(server:accept())
    assert(peer:send(first))
    local task = concur.spawn(client.receive, client, pattern, prefix)
    repeat concur.sleep(0.001) until client:getstats() == #first
    task:cancel()
    concur.wait { task }
    assert(task:cancelled())
    assert(peer:send(second))
    return client:receive(pattern, prefix)
  end)
end

describe("receive of concur.compat.socket, when it is cancelled", function()
  it("has taken nothing", function()
    assert.equal("abcdef", receive_twice("abc\r", "def\r\nrest", "*l"))
    assert.equal("abcdef", receive_twice("abc", "defgh", 6))
    assert.equal("\rabcd", receive_twice("ab", "cd\nrest", "*l", "\r"))
  end)
end)
