-- SPDX-License-Identifier: MIT
-- What the specs of streams begin with.

local expect = require "spec.support.expect"
local net = require "concur.net"

local streams = {}

---Two connected streams, and what closes both: `local one, other, _ <close> = streams.pair()`.
function streams.pair()
  local one, other = assert(net.socketpair())
  return one, other, expect.guard(function()
    one:close(0)
    other:close(0)
  end)
end

return streams
