-- SPDX-License-Identifier: MIT
-- Where an address has 32 bits, counts of bytes were cut to 32 bits: 2^32 became 0, and a message
-- became larger than the memory that was taken for it. These hold on every machine.

local concur = require "concur"
local core = require "concur.core"
local net = require "concur.net"

local BEYOND = 1 << 32

describe("a count of bytes beyond 32 bits", function()
  it("is not taken for a small SharedBuffer", function()
    local ok, e = pcall(concur.SharedBuffer, 1 << 62)
    assert.is_false(ok)
    assert.matches("not enough memory", tostring(e), 1, true)
  end)

  it("is no position in a small SharedBuffer", function()
    local buffer <close> = concur.SharedBuffer(16)
    local ok, e = pcall(buffer.get, buffer, "u8", BEYOND + 1)
    assert.is_false(ok)
    assert.matches("outside the buffer", tostring(e), 1, true)
  end)

  it("reads all that there is", function()
    concur.run(function()
      for _, read in ipairs { "read", "read_some" } do
        local one, other = assert(net.socketpair())
        assert(one:write "some bytes")
        assert(one:close())
        assert.equal("some bytes", other[read](other, BEYOND + 1))
        other:close()
      end
    end)
  end)

  it("is the limit of a message as it was given, or the greatest one", function()
    local before = concur.transfer_limit(BEYOND)
    local now = concur.transfer_limit(before)
    assert.is_true(now > BEYOND - 1024 and now < BEYOND, now)
  end)

  it("is refused as the size of a message of many strings", function()
    local text = ("x"):rep(1 << 26)
    local texts = {}
    for i = 1, 64 do -- 2^32 bytes, of which 64 MiB exist
      texts[i] = text
    end
    local before = concur.transfer_limit(1 << 20)
    local ok, e = pcall(core.encode, table.unpack(texts))
    concur.transfer_limit(before)
    assert.is_false(ok)
    assert.matches("larger than the limit", tostring(e), 1, true)
  end)
end)
