-- SPDX-License-Identifier: MIT
-- concur.serialize: modules that only one job at a time may use.

local concur = require "concur"
local support = require "spec.support"

describe("concur.serialize", function()
  it("lets one job at a time use the module", function()
    local dir = support.tmpdir()
    support.write_file(
      dir .. "/touchy.lua",
      [[
      local M = { version = 3 }
      function M.use(shared)
        assert(shared:add(1, 1) == 0, "two at a time")
        local stop = os.clock() + 0.002
        while os.clock() < stop do end
        shared:add(1, -1)
      end
      return M ]]
    )
    local out = support.check_lua(([[
      package.path = %q .. "/?.lua;" .. package.path
      local concur = require "concur"
      concur.serialize "touchy"
      concur.serialize "os"
      local pool <close> = concur.ThreadPoolExecutor(4)
      local shared = concur.SharedBuffer(8)
      local inputs = {}
      for i = 1, 40 do inputs[i] = i end
      local sum = 0
      for _, version in pool:map(function(i)
        local touchy = require "touchy"
        touchy.use(shared)
        if i %% 3 == 0 then require("concur").sleep(0.001) end
        touchy.use(shared)
        return touchy.version
      end, inputs) do sum = sum + version end
      assert(type(pool:run(function() return os.time() end)) == "number")
      print(sum)
    ]]):format(dir))
    assert.equal("120\n", out)
  end)

  it("checks its argument", function()
    local ok, e = pcall(concur.serialize, 5)
    assert.is_false(ok)
    assert.truthy(e:find "string expected, got number")
  end)
end)
