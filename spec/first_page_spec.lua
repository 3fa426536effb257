-- SPDX-License-Identifier: MIT
-- What the first pages of asyncio and concurrent.futures show, as claims that are checked. The files
-- in examples/ show the same to a reader.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

-- Blocks its thread for some units of 0.03 s.
local function blocking_call(units)
  os.execute(("sleep %.2f"):format(units * 0.03))
  return units
end

local function took(fn, ...)
  local start = concur.now()
  fn(...)
  return concur.now() - start
end

describe("the first page", function()
  it("two sleeps gathered take the time of one", function()
    virtual.run(function()
      assert.near(1, took(concur.gather, function()
        concur.sleep(1)
      end, function()
        concur.sleep(1)
      end), 1e-6)
    end)
    local seconds = took(concur.run, function()
      local function nap()
        concur.sleep(0.05)
      end
      concur.gather(nap, nap, nap, nap, nap, nap, nap, nap, nap, nap)
    end)
    assert.is_true(seconds >= 0.05 and seconds < 0.45 * support.time_scale, tostring(seconds))
  end)

  it("blocking calls on a pool come as they are done, outside any loop", function()
    local pool <close> = concur.ThreadPoolExecutor(3)
    local order = {}
    local seconds = took(function()
      local futures = {}
      for i, units in ipairs { 9, 1, 5 } do -- long, next to the start of a worker
        futures[i] = pool:submit(blocking_call, units * support.time_scale)
      end
      for future in concur.as_completed(futures) do
        order[#order + 1] = future:result() // support.time_scale
      end
    end)
    assert.same({ 1, 5, 9 }, order)
    assert.is_true(seconds >= 0.27 * support.time_scale)
  end)

  it("the same pool inside a loop gives the results in the order of the calls", function()
    concur.run(function()
      local loop = concur.get_event_loop()
      local pool <close> = concur.ThreadPoolExecutor { workers = 3 }
      assert.same({ 3, 1, 2 }, { concur.gather(
        loop:run_in_executor(pool, blocking_call, 3),
        loop:run_in_executor(pool, blocking_call, 1),
        loop:run_in_executor(pool, blocking_call, 2)) })
    end)
  end)

  it("three threads block at the same time, one thread one after the other", function()
    local function run(workers)
      local pool <close> = concur.ThreadPoolExecutor(workers)
      return took(function()
        concur.wait { pool:submit(blocking_call, 4), pool:submit(blocking_call, 4),
          pool:submit(blocking_call, 4) }
      end)
    end
    local together, in_turn = run(3), run(1)
    assert.is_true(in_turn >= 0.36, tostring(in_turn))
    assert.is_true(together < in_turn, together .. " and " .. in_turn)
  end)

  it("to_thread lets the loop tick while a call blocks", function()
    concur.run(function()
      local ticks = 0
      local ticker = concur.spawn(function()
        while true do
          concur.sleep(0.005)
          ticks = ticks + 1
        end
      end)
      assert.equal(4, concur.to_thread(blocking_call, 4))
      ticker:cancel()
      assert.is_true(ticks >= 2, ticks .. " ticks")
    end)
  end)

  it("run_until_complete drives the loop for one task", function()
    local loop = concur.get_event_loop()
    assert.equal("done", loop:run_until_complete(concur.async(function()
      concur.sleep(0.001)
      return "done"
    end)()))
  end)

  it("run_in_executor(nil, ...) uses the default pool", function()
    concur.run(function()
      local future = concur.get_event_loop():run_in_executor(nil, blocking_call, 1)
      assert.matches("Future", tostring(future))
      assert.equal(1, future:result())
    end)
  end)

  it("tasks of different length give results in the order of the inputs", function()
    virtual.run(function()
      local finished = {}
      local function task(seconds)
        return function()
          concur.sleep(seconds)
          finished[#finished + 1] = seconds
          return seconds
        end
      end
      assert.same({ 3, 1, 2 }, { concur.gather(task(3), task(1), task(2)) })
      assert.same({ 1, 2, 3 }, finished)
    end)
  end)
end)
