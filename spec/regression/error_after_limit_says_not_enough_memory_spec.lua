-- SPDX-License-Identifier: MIT
-- Once a job had come near `max_memory`, every string that it raised was replaced by "not enough
-- memory", also when the collector, or a pcall, had coped with it.

local concur = require "concur"
local errors = require "concur.errors"

describe("max_memory", function()
  it("leaves the job's own errors alone", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 1, max_memory = 4e6 }
    local ok, e = pcall(pool.run, pool, function()
      assert(not pcall(string.rep, "x", 1e7))
      error "the job's own error"
    end)
    assert.is_false(ok)
    assert.is_true(errors.is(e, "RemoteError"))
    assert.matches("the job's own error", e.message, 1, true)

    ok, e = pcall(pool.run, pool, function()
      collectgarbage "stop"
      for i = 1, 1000 do
        local _ = ("x"):rep(10000 + i) -- garbage: an emergency collection helps
      end
      error "the job's own error"
    end)
    assert.is_false(ok)
    assert.matches("the job's own error", e.message, 1, true)
  end)

  it("is named, as a whole number, when a job wants more", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 1, max_memory = 4e6 }
    local ok, e = pcall(pool.run, pool, string.rep, "x", 10000000)
    assert.is_false(ok)
    assert.matches("max_memory %(4000000 bytes%)", e.message)
  end)
end)
