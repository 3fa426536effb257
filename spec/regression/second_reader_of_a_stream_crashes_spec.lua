-- SPDX-License-Identifier: MIT
-- A second task was refused only where it had to wait: what had arrived for a reader that waits for
-- more was given to it. The first one then counted on bytes that were gone: it did not see the end
-- of its line, and one with several formats looked behind the end of the buffer.

require "spec.support"
local concur = require "concur"
local expect = require "spec.support.expect"
local streams = require "spec.support.streams"
local testing = require "concur.testing"

-- Each reads some of what is there.
local SECOND_READS = {
  function(stream) return stream:read_some() end,
  function(stream) return stream:read(1) end,
  function(stream) return stream:read(0) end,
  function(stream) return stream:read_until "b" end,
  function(stream) return stream:read_into(concur.SharedBuffer(8)) end,
  function(stream) return stream:lines()() end,
}

describe("a task that reads while another one waits for more", function()
  for _, make in ipairs { "pair", "tcp_pair" } do
    it("is refused, whatever is there (" .. make .. ")", function()
      testing.run(function()
        for _, second in ipairs(SECOND_READS) do
          local one, other, _ <close> = streams[make]()
          local first = concur.spawn(one.read, one, "l", "l")
          other:write "abc\nde"
          while one:buffered() < 6 do
            concur.sleep(0.001)
          end
          expect.error("InvalidState", second, one)
          other:write "x\n"
          local results = table.pack(first:result())
          assert.same({ "abc", "dex", n = 2 }, results)
          other:write "\n"
          assert.equal("", one:read())
        end
      end)
    end)
  end

  it("may read what is left once the first one was cancelled", function()
    testing.run(function()
      local one, other, _ <close> = streams.pair()
      local first = concur.spawn(one.read, one, "l")
      other:write "abc"
      while one:buffered() < 3 do
        concur.sleep(0.001)
      end
      expect.error("InvalidState", one.read_some, one)
      first:cancel()
      concur.wait { first }
      assert.equal("abc", one:read_some())
    end)
  end)
end)
