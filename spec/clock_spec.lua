-- SPDX-License-Identifier: MIT
-- Durations, sleeping, the loop's clock and the virtual clock.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

describe("now", function()
  it("is a float that never goes back", function()
    local last = concur.now()
    assert.equal("float", math.type(last))
    for _ = 1, 1000 do
      local now = concur.now()
      assert.is_true(now >= last)
      last = now
    end
  end)

  it("moves with real time while code runs", function()
    local start = concur.now()
    while concur.now() - start < 0.002 do end
    assert.is_true(concur.now() - start >= 0.002)
  end)
end)

describe("sleep", function()
  it("returns its other arguments, nils included", function()
    virtual.run(function()
      assert.same({ nil, 2, nil, n = 3 }, table.pack(concur.sleep(1, nil, 2, nil)))
      assert.equal(0, select("#", concur.sleep(1)))
      assert.same({ nil, 2, nil, n = 3 }, table.pack(concur.sleep(0, nil, 2, nil)))
    end)
  end)

  it("lasts at least as long as asked, and not much longer", function()
    local start = concur.now()
    concur.run(concur.sleep, 0.02)
    local took = concur.now() - start
    assert.is_true(took >= 0.02, tostring(took))
    assert.is_true(took < 0.5 * support.time_scale, tostring(took))
  end)

  it("never ends before its time, however short", function()
    concur.run(function()
      for i = 1, 20 do
        local seconds = i / 5000
        local start = concur.now()
        concur.sleep(seconds)
        assert.is_true(concur.now() - start >= seconds)
      end
    end)
  end)

  it("counts negative as 0", function()
    virtual.run(function()
      local start = concur.now()
      assert.equal("x", concur.sleep(-5, "x"))
      assert.equal("x", concur.sleep(-math.huge, "x"))
      assert.equal(start, concur.now())
    end)
  end)

  it("of math.huge never ends, but can be cancelled", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep, math.huge)
      concur.sleep(1e9)
      assert.equal("pending", task:state())
      task:cancel()
      concur.sleep(0)
      assert.is_true(task:cancelled())
    end)
  end)

  it("of very many seconds does not overflow", function()
    virtual.run(function()
      local ended = false
      local task = concur.spawn(function()
        concur.sleep(1e300)
        ended = true
      end)
      concur.sleep(1e8)
      assert.is_false(ended)
      task:cancel()
    end)
  end)

  it("refuses NaN and what is no number", function()
    virtual.run(function()
      for _, value in ipairs { 0 / 0, "soon", {}, true } do
        assert.matches("#1", tostring(failure(concur.sleep, value)))
      end
      assert.matches("NaN", tostring(failure(concur.sleep, 0 / 0)))
      assert.matches("#1", tostring(failure(concur.sleep)))
    end)
  end)

  it("wakes in the order of the deadlines, equal ones in the order of the calls", function()
    local log = {}
    virtual.run(function()
      for i, seconds in ipairs { 3, 1, 2, 1, 3, 1 } do
        concur.spawn(function()
          concur.sleep(seconds)
          log[#log + 1] = i
        end)
      end
      concur.sleep(10)
    end)
    assert.same({ 2, 4, 6, 3, 1, 5 }, log)
  end)

  it("wakes thousands of random sleepers in the order of their deadlines", function()
    support.seed()
    virtual.run(function()
      local last, count = 0, 0
      for _ = 1, 3000 do
        local seconds = math.random() * 100
        concur.spawn(function()
          local deadline = concur.now() + seconds
          concur.sleep(seconds)
          assert.near(deadline, concur.now(), 1e-6)
          assert.is_true(concur.now() >= last)
          last, count = concur.now(), count + 1
        end)
      end
      concur.sleep(101)
      assert.equal(3000, count)
    end)
  end)
end)

describe("the virtual clock", function()
  it("jumps: years take no time", function()
    local real = os.time()
    virtual.run(function()
      local start = concur.now()
      concur.sleep(10 * 365 * 86400)
      assert.near(10 * 365 * 86400, concur.now() - start, 1e-3)
    end)
    assert.is_true(os.time() - real <= 5 * support.time_scale)
  end)

  it("does not move while tasks run", function()
    virtual.run(function()
      local start = concur.now()
      local x = 0
      for i = 1, 100000 do
        x = x + i
      end
      for _ = 1, 1000 do
        concur.sleep(0)
      end
      assert.equal(start, concur.now())
    end)
  end)

  it("starts at 0, and can be read and moved by hand", function()
    local clock = concur.testing.Clock()
    assert.equal(0, clock:now())
    local runner <close> = concur.Runner { clock = clock }
    runner:run(function()
      assert.equal(0, concur.now())
      assert.equal(concur.now(), concur.get_event_loop():time())
      concur.sleep(5)
      assert.near(5, clock:now(), 1e-9)
      local log = {}
      local task = concur.spawn(function()
        concur.sleep(10)
        log[#log + 1] = concur.now()
      end)
      concur.sleep(0)
      clock:advance(100)
      assert.near(105, concur.now(), 1e-9)
      task:result()
      assert.same({ 105.0 }, log)
    end)
  end)

  it("never goes back, and refuses NaN and what is no number", function()
    local clock = concur.testing.Clock()
    pcall(clock.advance, clock, -1)
    for _, value in ipairs { 0 / 0, "x" } do
      failure(clock.advance, clock, value)
    end
    assert.equal(0, clock:now())
    failure(clock.advance, clock)
  end)

  it("jumps from deadline to deadline, not past them", function()
    virtual.run(function()
      local log = {}
      concur.gather(function()
        for _ = 1, 3 do
          concur.sleep(10)
          log[#log + 1] = "ten@" .. math.floor(concur.now())
        end
      end, function()
        for _ = 1, 2 do
          concur.sleep(14)
          log[#log + 1] = "fourteen@" .. math.floor(concur.now())
        end
      end)
      assert.same({ "ten@10", "fourteen@14", "ten@20", "fourteen@28", "ten@30" }, log)
    end)
  end)

  it("waits for jobs in flight before it jumps", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    virtual.run(function()
      local job = pool:submit(function()
        local until_then = os.clock() + 0.01
        while os.clock() < until_then do end
        return "job"
      end)
      assert.equal("job", job:result(1000000))
      assert.equal(0, concur.now())
    end)
  end)

  it("ends with its runner: the next run is on real time", function()
    virtual.run(concur.sleep, 1e6)
    local start = concur.now()
    concur.run(concur.sleep, 0.002)
    local took = concur.now() - start
    assert.is_true(took >= 0.002 and took < 1 * support.time_scale)
  end)

  it("raises Deadlock when no deadline is left to jump to", function()
    failure_of_kind("Deadlock", virtual.run, function()
      concur.sleep(1)
      concur.sleep_forever()
    end)
  end)

  it("is refused as a clock if it is something else", function()
    for _, value in ipairs { 1, "x", {}, os.time } do
      assert.matches("clock", tostring(failure(concur.Runner, { clock = value })))
    end
  end)

  it("shows its time", function()
    assert.matches("Clock", tostring(concur.testing.Clock()))
  end)
end)

describe("run_until_idle", function()
  it("waits until every other task waits; no time passes", function()
    virtual.run(function()
      local log = {}
      for i = 1, 3 do
        concur.spawn(function()
          for _ = 1, i do
            concur.sleep(0)
          end
          log[#log + 1] = i
          concur.sleep(10)
          log[#log + 1] = "late"
        end)
      end
      local start = concur.now()
      concur.testing.run_until_idle()
      assert.same({ 1, 2, 3 }, log)
      assert.equal(start, concur.now())
    end)
  end)
end)
