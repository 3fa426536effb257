-- SPDX-License-Identifier: MIT
-- Thread pools under load. CONCUR_STRESS_SECONDS makes the random part longer (default: 1 second).

local concur = require "concur"
local errors = require "concur.errors"
local resident = require "spec.support.resident"
local support = require "spec.support"

local SECONDS = tonumber(os.getenv "CONCUR_STRESS_SECONDS") or 1

-- Runs in a worker: submits to the default pool, cancels at random, checks each outcome.
local function submitter(seed, seconds)
  local c = require "concur"
  local e = require "concur.errors"
  math.randomseed(seed)
  local pool = c.default_executor()
  local submitted, done, cancelled = 0, 0, 0
  local flying = {}
  local function check(entry)
    local ok, value = pcall(entry.future.result, entry.future)
    if ok then
      assert(value == entry.expected, "the result of another job")
      done = done + 1
    else
      assert(e.is(value, "FutureCancelled") and entry.cancelled, value)
      cancelled = cancelled + 1
    end
  end
  local stop = c.now() + seconds
  while c.now() < stop do
    local n = math.random(1000000)
    local kind = math.random(6)
    local entry = { expected = n }
    if kind == 1 then
      entry.future = pool:submit(function(x)
        require("concur").sleep(0.001)
        return x
      end, n)
    elseif kind == 2 then
      entry.expected = nil
      entry.future = pool:submit(function(x)
        local t = { x, x }
        while x > 0 and not require("concur").cancelled() and #t < 200 do
          t[#t + 1] = x
        end
      end, n)
    else
      entry.future = pool:submit(math.abs, -n)
    end
    submitted = submitted + 1
    if math.random(3) == 1 then
      entry.cancelled = entry.future:cancel()
    end
    flying[#flying + 1] = entry
    if #flying > 50 or math.random(10) == 1 then
      check(table.remove(flying, math.random(#flying)))
    end
  end
  for _, entry in ipairs(flying) do
    check(entry)
  end
  assert(submitted == done + cancelled)
  return submitted, done, cancelled
end

describe("a pool under load", function()
  it("serves 8 threads that submit and cancel at random", function()
    local seed = support.seed()
    local pool <close> = concur.ThreadPoolExecutor(8)
    local futures = {}
    for i = 1, 8 do
      futures[i] = pool:submit(submitter, seed + i, SECONDS)
    end
    local total = 0
    for i = 1, 8 do
      total = total + futures[i]:result()
    end
    assert.is_true(total > 100, total)
  end)

  it("does 100,000 jobs and gives the memory back", function()
    local count = support.time_scale > 1 and 20000 or 100000
    local pool <close> = concur.ThreadPoolExecutor(4)
    concur.run(function()
      local sum, after_first = 0, nil
      for round = 1, 10 do
        local futures = {}
        for i = 1, count / 10 do
          futures[i] = pool:submit(function(x)
            return x
          end, i)
        end
        for i = 1, count / 10 do
          sum = sum + futures[i]:result()
        end
        futures = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        if round == 3 then
          after_first = resident()
        end
      end
      local n = count // 10
      assert.equal(10 * n * (n + 1) // 2, sum)
      if support.time_scale == 1 then
        assert.is_true(resident() - after_first < 16e6 / 1024, resident() - after_first)
      end
    end)
    assert.equal(count, pool:stats().completed)
  end)

  it("may be closed at any moment", function()
    local seed = support.seed()
    local result = support.run_lua(
      [[
      local concur = require "concur"
      math.randomseed(tonumber(arg[1]))
      for round = 1, 40 do
        local pool = concur.ThreadPoolExecutor { workers = 3, max_jobs = round % 5 + 1 }
        local channel = concur.Channel(1)
        for i = 1, math.random(60) do
          local kind = math.random(4)
          if kind == 1 then pool:submit("concur.sleep", 60)
          elseif kind == 2 then pool:submit(function(ch) return ch:recv() end, channel)
          elseif kind == 3 then
            pool:submit(function() return require("concur").to_thread(math.abs, -1) end)
          else pool:submit(math.abs, -i):cancel() end
        end
        local stop = concur.now() + math.random() * 0.01
        if math.random(2) == 1 then concur.sleep(math.random() * 0.01) end
        concur.get_event_loop():close()
      end ]],
      { args = { tostring(seed) }, timeout = 60 }
    )
    assert.equal(0, result.code, support.describe(result))
  end)

  it("reports a library error of many jobs each time", function()
    local pool <close> = concur.ThreadPoolExecutor(4)
    local n = 0
    for i = 1, 200 do
      local ok, e = pcall(pool.run, pool, function(x)
        local c = require "concur"
        if x % 2 == 0 then
          c.timeout(0, c.sleep, 1)
        end
        return x
      end, i)
      if not ok then
        assert.is_true(errors.is(e, "TimeoutError"))
        n = n + 1
      end
    end
    assert.equal(100, n)
  end)
end)
