-- SPDX-License-Identifier: MIT
-- Symptom: the `stdin` of a program could not be shut down (`nil, ENOTSOCK`), and the program waited
-- for the end of its input: pipes are no sockets.

local concur = require "concur"
local expect = require "spec.support.expect"

describe("shutdown of a program's stdin", function()
  it("gives the program the end of its input, after what was written", function()
    concur.run(function()
      local text = ("x"):rep(300000)
      local cat <close> = assert(concur.process.spawn { "cat" })
      local writer = concur.spawn(function()
        assert(cat.stdin:write(text))
        assert.is_true(cat.stdin:shutdown())
      end)
      assert.equal(#text, #cat.stdout:read "a")
      writer:result()
      assert.equal(0, (cat:wait()))
      assert.is_true(cat.stdin:closed())
      assert.is_true(cat.stdin:close())
      expect.error("Closed", cat.stdin.write, cat.stdin, "more")
    end)
  end)
end)
