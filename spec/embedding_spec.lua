-- SPDX-License-Identifier: MIT
-- Driving the loop from a host's own loop: fd, step, next_timeout.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure_of_kind = virtual.failure_of_kind

local function loop()
  return concur.get_event_loop()
end

describe("step", function()
  it("runs what is ready and returns", function()
    local log = {}
    local task = concur.spawn(function()
      log[#log + 1] = "first"
      concur.sleep(0)
      log[#log + 1] = "second"
    end)
    loop():step(0)
    assert.equal("first", log[1])
    while not task:done() do
      loop():step(0)
    end
    assert.same({ "first", "second" }, log)
  end)

  it("returns at once when there is nothing to do", function()
    local start = concur.now()
    loop():step(0)
    assert.is_true(concur.now() - start < 0.1 * support.time_scale)
  end)

  it("never raises Deadlock", function()
    local task = concur.spawn(concur.sleep_forever)
    for _ = 1, 3 do
      loop():step(0)
    end
    assert.equal("pending", task:state())
    task:cancel()
    loop():step(0)
    assert.equal("cancelled", task:state())
  end)

  it("waits for a timer, but no longer than it is told", function()
    local fired = false
    loop():call_later(0.02, function()
      fired = true
    end)
    local start = concur.now()
    loop():step(0.001)
    assert.is_false(fired)
    loop():step(10)
    assert.is_true(fired)
    local took = concur.now() - start
    assert.is_true(took >= 0.019 and took < 2 * support.time_scale)
  end)

  it("lets a whole program run to its end", function()
    local log = {}
    local done = concur.spawn(function()
      concur.gather(function()
        concur.sleep(0.002)
        log[#log + 1] = "slow"
      end, function()
        log[#log + 1] = "quick"
      end)
      return "end"
    end)
    local turns = 0
    while not done:done() do
      loop():step(loop():next_timeout())
      turns = turns + 1
      assert.is_true(turns < 1000)
    end
    assert.equal("end", done:result())
    assert.same({ "quick", "slow" }, log)
  end)

  it("hands errors of callbacks to on_error and does not raise them", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local loop = concur.get_event_loop()
      loop:call_soon(error, "from a callback", 0)
      loop:step(0)
      print "still here"
    ]]
    assert.equal("still here\n", result.stdout, support.describe(result))
    assert.matches("from a callback", result.stderr)
  end)

  it("is refused while the loop runs", function()
    concur.run(function()
      failure_of_kind("InvalidState", loop().step, loop(), 0)
    end)
  end)

  it("is refused inside a callback of a step", function()
    local e
    loop():call_soon(function()
      e = virtual.failure(loop().step, loop(), 0)
    end)
    loop():step(0)
    assert.is_true(concur.errors.is(e, "InvalidState"))
  end)

  it("refuses NaN", function()
    assert.matches("NaN", tostring(virtual.failure(loop().step, loop(), 0 / 0)))
  end)
end)

describe("next_timeout", function()
  it("is 0 when something is ready", function()
    loop():call_soon(function() end)
    assert.equal(0, loop():next_timeout())
    loop():step(0)
  end)

  it("is the time until the next timer", function()
    loop():call_later(1000, print)
    local handle = loop():call_later(100, print)
    local left = loop():next_timeout()
    assert.is_true(left > 90 and left <= 100, tostring(left))
    handle:cancel()
    left = loop():next_timeout()
    assert.is_true(left > 900 and left <= 1000, tostring(left))
    loop():close()
  end)

  it("goes down as time passes, even when the loop does not run", function()
    loop():call_later(0.001, print)
    local start = concur.now()
    while concur.now() - start < 0.003 do end
    assert.equal(0, loop():next_timeout())
    loop():close()
  end)

  it("is nil when there is nothing to wait for but the descriptor", function()
    assert.is_nil(loop():next_timeout())
  end)

  it("is 0 after a step that made something ready", function()
    concur.spawn(function()
      concur.sleep(0)
    end)
    loop():step(0)
    assert.equal(0, loop():next_timeout())
    while #concur.all_tasks() > 0 do
      loop():step(0)
    end
    assert.is_nil(loop():next_timeout())
  end)
end)

describe("fd", function()
  it("is a descriptor that stays the same", function()
    local fd = loop():fd()
    assert.equal("integer", math.type(fd))
    assert.is_true(fd >= 0)
    loop():step(0)
    assert.equal(fd, loop():fd())
  end)

  it("watches what wakes the loop, from the first step on", function()
    local fd = loop():fd()
    loop():step(0)
    local info = io.open("/proc/self/fdinfo/" .. fd)
    if info then -- Linux says what an epoll descriptor watches
      local text = info:read "a"
      info:close()
      assert.matches("tfd:", text)
    end
  end)

  it("lets a host learn that a job is done without waiting in step", function()
    local task = concur.spawn(concur.to_thread, string.rep, "x", 3)
    for _ = 1, 10000 do
      loop():step(0)
      if task:done() then
        break
      end
      os.execute "sleep 0.001"
    end
    assert.equal("xxx", task:result())
  end)
end)
