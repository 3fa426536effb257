-- SPDX-License-Identifier: MIT
-- The seeded shuffle of the ready order: tests can try other orders than first in, first out.

local concur = require "concur"
local core = require "concur.core"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

-- Runs forty tasks of three steps each, and returns the order of their steps.
local function order_of(seed)
  local log = {}
  virtual.run(function()
    core.shuffle(seed)
    local tasks = {}
    for i = 1, 40 do
      tasks[i] = concur.spawn(function()
        for _ = 1, 3 do
          log[#log + 1] = i
          concur.sleep(0)
        end
      end)
    end
    concur.wait(tasks)
    core.shuffle(nil)
  end)
  return table.concat(log, " ")
end

describe("shuffle", function()
  after_each(function()
    core.shuffle(nil)
  end)

  it("is off at first, and can be switched off again", function()
    local fifo = order_of(nil)
    assert.matches("^1 2 3 4 5 6 7 8 9 10 ", fifo)
    order_of(7)
    assert.equal(fifo, order_of(nil))
  end)

  it("gives another order for each seed", function()
    local seen, count = {}, 0
    for seed = 1, 10 do
      local order = order_of(seed)
      count = count + (seen[order] and 0 or 1)
      seen[order] = true
    end
    assert.is_true(count >= 9, count .. " different orders")
  end)

  it("gives the same order for the same seed", function()
    local seed = support.seed()
    assert.equal(order_of(seed), order_of(seed))
  end)

  it("lets every task run to its end, each step once", function()
    for seed = 1, 20 do
      local counts, log = {}, order_of(seed)
      for i in log:gmatch "%d+" do
        counts[i] = (counts[i] or 0) + 1
      end
      for i = 1, 40 do
        assert.equal(3, counts[tostring(i)])
      end
    end
  end)

  it("keeps the order inside each task and the results of gather", function()
    for seed = 1, 20 do
      virtual.run(function()
        core.shuffle(seed)
        local inputs = {}
        for i = 1, 20 do
          inputs[i] = function()
            for _ = 1, i % 4 do
              concur.sleep(0)
            end
            return i
          end
        end
        local results = concur.gather(inputs)
        for i = 1, 20 do
          assert.equal(i, results[i])
        end
        core.shuffle(nil)
      end)
    end
  end)

  it("starves nobody: a task among busy ones has its turn", function()
    for seed = 1, 10 do
      virtual.run(function()
        core.shuffle(seed)
        local stop = false
        for _ = 1, 10 do
          concur.spawn(function()
            while not stop do
              concur.sleep(0)
            end
          end)
        end
        for _ = 1, 50 do
          concur.sleep(0)
        end
        stop = true
        core.shuffle(nil)
      end)
    end
  end)
end)
