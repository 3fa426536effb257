-- SPDX-License-Identifier: MIT
-- A stream that was closing, with unsent bytes and seconds of grace, could not be hurried: close(0)
-- waited for the grace time of the first close.

require "spec.support"
local concur = require "concur"
local net = require "concur.net"
local testing = require "concur.testing"

-- A stream with more to send than the system takes, which is closing.
local function closing(...)
  local one, other = assert(net.socketpair())
  one:write(("x"):rep(2000000))
  local task = concur.spawn(one.close, one, ...)
  concur.checkpoint()
  assert.is_true(one:closed())
  assert.is_false(task:done())
  return one, other, task
end

describe("a second close with less grace", function()
  it("shortens the first, whatever that was", function()
    for _, first in ipairs { 3600, math.huge, false } do
      testing.run(function()
        local one, other, task = closing(first or nil)
        local start = concur.now()
        local ok, err = one:close(2)
        assert.is_nil(ok)
        assert.equal("ETIMEDOUT", err.code)
        assert.equal(2, concur.now() - start)
        assert.equal("ETIMEDOUT", select(2, task:result()).code)
        other:close()
      end)
    end
  end)

  it("ends it at once when it is 0", function()
    testing.run(function()
      local one, other = closing(3600)
      local start = concur.now()
      assert.is_nil((one:close(0)))
      assert.equal(start, concur.now())
      other:close()
    end)
  end)

  it("does not lengthen it, and without a time it changes nothing", function()
    for _, second in ipairs { 100, false } do
      testing.run(function()
        local one, other, task = closing(second and 3 or 60)
        local start = concur.now()
        one:close(second or nil)
        assert.equal(second and 3 or 60, concur.now() - start)
        concur.wait { task }
        other:close()
      end)
    end
  end)
end)
