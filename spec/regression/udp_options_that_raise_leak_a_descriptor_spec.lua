-- SPDX-License-Identifier: MIT
-- The options of net.udp were read when the socket was there already: one whose metamethod raised
-- left the descriptor open.

require "spec.support"
local concur = require "concur"

describe("options of net.udp that raise when they are read", function()
  it("leave no descriptor open", function()
    concur.run(function()
      local before = assert(concur.net.udp("127.0.0.1", 0))
      local fd = before:fd() -- the lowest that is free
      before:close()
      local options = setmetatable({}, { __index = function(_, name)
        if name == "reuseaddr" then error "not to be read" end
      end })
      for _ = 1, 3 do
        local ok, err = pcall(concur.net.udp, "127.0.0.1", 0, options)
        assert.is_false(ok)
        assert.matches("not to be read", err)
      end
      local after <close> = assert(concur.net.udp("127.0.0.1", 0))
      assert.equal(fd, after:fd())
    end)
  end)
end)
