-- What tasks leave behind for others: coroutines are kept for bursts, and let go afterwards.
local concur = require "concur"
local core = require "concur.core"
local virtual = require "spec.support.virtual"

local BURST = 3000
local ALWAYS_KEPT = 1024

-- Runs `count` tasks that all wait at the same time.
local function burst(count)
  local tasks = {}
  for i = 1, count do
    tasks[i] = function()
      concur.sleep(0.5)
    end
  end
  concur.gather(tasks)
end

describe("coroutines", function()
  it("are as many after a burst as it needed", function()
    virtual.run(function()
      burst(BURST)
      assert.is_true(core.idle_coroutines() >= BURST)
      local before = core.idle_coroutines()
      burst(BURST)
      assert.equal(before, core.idle_coroutines())
    end)
  end)

  it("are let go when tasks go on without another burst", function()
    virtual.run(function()
      burst(BURST)
      for _ = 1, 200 do
        burst(1)
      end
      assert.is_true(core.idle_coroutines() <= ALWAYS_KEPT)
      collectgarbage()
      burst(BURST)
      assert.is_true(core.idle_coroutines() >= BURST)
    end)
  end)

  it("are one after the other the same where tasks end at once", function()
    virtual.run(function()
      local before = core.idle_coroutines()
      local tasks = {}
      for i = 1, BURST do
        tasks[i] = function() end
      end
      concur.gather(tasks)
      assert.is_true(core.idle_coroutines() <= before + 2)
    end)
  end)
end)
