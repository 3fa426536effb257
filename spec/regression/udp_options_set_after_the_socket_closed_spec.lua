-- SPDX-License-Identifier: MIT
-- Udp:set read its options one by one and set each at once, at the descriptor that it had looked up
-- before: a metamethod that closed the socket made it set the options of whatever has that number now.

require "spec.support"
local concur = require "concur"
local expect = require "spec.support.expect"
local net = require "concur.net"

describe("Udp:set with options that close the socket when they are read", function()
  it("raises Closed, and touches no other socket", function()
    concur.run(function()
      local victim = assert(net.udp("127.0.0.1", 0))
      local fd = victim:fd()
      local bystander
      local options = setmetatable({}, { __index = function(_, name)
        if name == "broadcast" then
          victim:close()
          bystander = assert(net.udp("127.0.0.1", 0))
          assert.equal(fd, bystander:fd()) -- it has the number now
          return true
        end
      end })
      expect.error("Closed", victim.set, victim, options)
      local ok, err = bystander:send_to("x", "255.255.255.255", 9)
      assert.is_nil(ok)
      assert.equal("EACCES", err.code) -- no broadcasts
      bystander:close()
    end)
  end)
end)
