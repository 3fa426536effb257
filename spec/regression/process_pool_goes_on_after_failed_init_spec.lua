-- SPDX-License-Identifier: MIT
-- When `init` failed for a later state of a worker process (after max_memory), only that job said so:
-- the pool accepted more, and if it broke by crashes at the same time, the error of init was read as
-- if it were the description of a crash.

local concur = require "concur"
local errors = require "concur.errors"

describe("a process pool", function()
  it("is broken when init fails for the second state of a worker", function()
    local path = os.tmpname()
    local pool <close> = concur.ProcessPoolExecutor {
      workers = 1,
      max_memory = 4e6,
      init = function()
        local file <close> = assert(io.open(path, "r+"))
        if file:read(1) then error "init fails the second time" end
        file:write "x"
      end,
    }
    local ok, e = pcall(pool.run, pool, string.rep, "x", 10000000)
    assert.is_false(ok)
    assert.matches("max_memory", tostring(e), 1, true)

    ok, e = pcall(pool.run, pool, string.rep, "x", 1)
    assert.is_false(ok)
    assert.is_true(errors.is(e, "BrokenExecutor"))
    assert.matches("init fails the second time", tostring(e), 1, true)

    ok, e = pcall(pool.submit, pool, string.rep, "x", 1) -- not even accepted
    assert.is_false(ok)
    assert.is_true(errors.is(e, "BrokenExecutor"))
    assert.matches("init fails the second time", tostring(e), 1, true)
    os.remove(path)
  end)
end)
