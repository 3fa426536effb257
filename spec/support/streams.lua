-- SPDX-License-Identifier: MIT
-- What the specs of streams begin with.

local expect = require "spec.support.expect"
local net = require "concur.net"

local streams = {}

local function with_guard(one, other)
  return one, other, expect.guard(function()
    one:close(0)
    other:close(0)
  end)
end

---Two connected streams, and what closes both: `local one, other, _ <close> = streams.pair()`.
function streams.pair()
  local one, other = assert(net.socketpair())
  return with_guard(one, other)
end

---The same over TCP, whose streams receive and send in another way.
function streams.tcp_pair()
  local listener <close> = assert(net.listen("127.0.0.1", 0))
  local one = assert(net.connect(listener:address()))
  return with_guard(one, assert(listener:accept()))
end

return streams
