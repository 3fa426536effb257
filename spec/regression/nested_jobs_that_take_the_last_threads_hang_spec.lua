-- SPDX-License-Identifier: MIT
-- Two jobs were allowed to submit one more each before either waited, and took the last thread that
-- may exist. Then all threads waited for jobs that nobody was left to run.

local concur = require "concur"

describe("nested jobs that take the last threads at the same time", function()
  it("end in an error, not in a deadlock", function()
    -- By its name, and not as an upvalue: each level has it from the one above.
    local function nest(f)
      local c = require "concur"
      local below = c.spawn(c.to_thread, f, f)
      c.sleep(0)
      local began = os.clock()
      while os.clock() - began < 0.002 do end -- the next one begins before this one waits
      return below:result()
    end
    local ok, e = pcall(concur.timeout, 60, concur.to_thread, nest, nest)
    assert.is_false(ok)
    assert.truthy(tostring(e):find("no more threads may be started", 1, true), tostring(e))
    assert.equal(1, concur.to_thread(math.abs, -1))
  end)
end)
