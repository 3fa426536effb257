-- SPDX-License-Identifier: MIT
-- net.serve of a listener that was closed already returned true at once, as after a server's life.

require "spec.support"
local concur = require "concur"
local expect = require "spec.support.expect"
local net = require "concur.net"

describe("net.serve of a closed listener", function()
  it("raises Closed", function()
    local listener = assert(net.listen("127.0.0.1", 0))
    listener:close()
    local err = expect.error("Closed", net.serve, print, listener)
    assert.matches("serve: the listener is closed", tostring(err), 1, true)
    assert.same({}, concur.all_tasks())
  end)
end)
