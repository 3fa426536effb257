-- SPDX-License-Identifier: MIT
-- The system refuses threads. A bounded pool took the refusal (EAGAIN) for a full queue: `map` ended
-- without a result and without an error. Jobs that only threads in a wait could have run were
-- queued for ever. And one shortage of memory, while a worker began, broke its pool for good.

local support = require "spec.support"

local function run(code)
  support.check_lua(code, {
    lua = support.host,
    env = { LUA_CPATH = support.build .. "/faults/?.so;" .. support.build .. "/?.so;;" },
  })
end

describe("when threads are refused", function()
  it("map on a bounded pool raises instead of ending early", function()
    run [[
      local concur = require "concur"
      concur.run(function()
        local pool <close> = concur.ThreadPoolExecutor { workers = 2, queue_size = 4 }
        testhost.fail(" uv_thread_create ", 1)
        local it = pool:map(math.abs, { -1, -2, -3 })
        local ok, e = pcall(it)
        assert(testhost.fail() > 0)
        assert(not ok and concur.errors.is(e, "OSError") and e.code == "EAGAIN", tostring(e))
        local sum = 0
        for _, value in pool:map(math.abs, { -1, -2, -3 }) do sum = sum + value end
        assert(sum == 6)
      end)
    ]]
  end)

  it("a job for which only waiting threads are left fails", function()
    run [[
      local concur = require "concur"
      concur.run(function()
        assert(concur.to_thread(math.abs, -1) == 1) -- the one thread that there will be
        testhost.fail(" uv_thread_create ", 1)
        local ok, e = pcall(concur.to_thread, function()
          local concur = require "concur"
          local jobs = {}
          for i = 1, 3 do jobs[i] = function() return concur.to_thread(math.abs, -i) end end
          return concur.gather(jobs)
        end)
        assert(testhost.fail() > 0)
        assert(not ok and concur.errors.is(e, "BrokenExecutor"), tostring(e))
        assert(concur.to_thread(math.abs, -7) == 7)
      end)
    ]]
  end)

  it("a job in C for which only waiting threads are left fails, too", function()
    run [[
      local concur = require "concur"
      concur.run(function()
        assert(concur.to_thread(math.abs, -1) == 1)
        testhost.fail(" uv_thread_create ", 1)
        local ok, e = pcall(concur.to_thread, function()
          return require("capi_probe").submit({ what = "done" }):result()
        end)
        assert(testhost.fail() > 0)
        assert(not ok and concur.errors.is(e, "BrokenExecutor"), tostring(e))
        assert(concur.to_thread(math.abs, -7) == 7)
      end)
    ]]
  end)

  it("the pool works again after memory was short for a worker", function()
    run [[
      local concur = require "concur"
      concur.run(function()
        local refused = 0
        for n = 1, 60 do
          local pool <close> = concur.ThreadPoolExecutor(1)
          testhost.fail(" malloc calloc realloc ", n)
          local ok, e = pcall(function() return pool:submit("math.abs", -1):result() end)
          if not ok then refused = refused + 1 end
          testhost.fail()
          assert(pool:submit("math.abs", -2):result() == 2, n)
        end
        assert(refused > 10, refused)
      end)
    ]]
  end)
end)
