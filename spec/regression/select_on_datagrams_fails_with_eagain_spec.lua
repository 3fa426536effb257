-- SPDX-License-Identifier: MIT
-- The system says that there is a datagram and drops it before it is read (its checksum was wrong).
-- `recv_from` went on waiting, but the arm of `select` was over, with `nil, EAGAIN`.

local support = require "spec.support"

describe("select on a datagram that is dropped", function()
  it("goes on waiting", function()
    support.check_lua([[
      local concur = require "concur"
      concur.run(function()
        local one <close> = assert(concur.net.udp("127.0.0.1", 0))
        local two <close> = assert(concur.net.udp())
        local _, port = one:address()
        local EAGAIN = 11
        testhost.fail(" recvmsg ", 1, 3, EAGAIN)
        concur.spawn(two.send_to, two, "hello", "127.0.0.1", port)
        local key, data, err = concur.select { data = one:receiving(), late = concur.after(10) }
        assert(testhost.fail() == 3)
        assert(key == "data" and data == "hello", tostring(err))
      end)
    ]], { lua = support.host, env = { LUA_CPATH = support.build .. "/faults/?.so;;" } })
  end)
end)
