-- SPDX-License-Identifier: MIT
-- A result larger than `concur.transfer_limit` ended the worker process instead of failing the job with
-- TransferError; and an `init` of more than 64 MiB made every worker exit.

local concur = require "concur"
local errors = require "concur.errors"

describe("a process pool", function()
  it("refuses a result beyond the limit in the worker, which goes on", function()
    local before = concur.transfer_limit(100000)
    local pool <close> = concur.ProcessPoolExecutor(1)
    local ok, e = pcall(pool.run, pool, string.rep, "x", 200000)
    local small = pool:run(string.rep, "x", 10)
    concur.transfer_limit(before)
    assert.is_false(ok)
    assert.is_true(errors.is(e, "TransferError"), tostring(e))
    assert.matches("limit of 100000 bytes", tostring(e), 1, true)
    assert.equals(("x"):rep(10), small)
    assert.equals(0, pool:stats().crashes)
    assert.equals(1, pool:stats().processes_started)
  end)

  it("takes an init function with 70 MB in it", function()
    local large = ("x"):rep(70 << 20)
    local pool <close> = concur.ProcessPoolExecutor {
      workers = 1,
      init = function() LARGE = #large end, -- luacheck: ignore
    }
    assert.equals(70 << 20, pool:run(load "return LARGE"))
  end)
end)
