-- SPDX-License-Identifier: MIT
-- A stranger closes the coroutine of a task that waits in a primitive: the task fails, and what it
-- waited for goes to others.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

-- A task that waits in `wait`, and whose coroutine is closed by somebody else.
local function tampered(wait)
  local co
  local task = concur.spawn(function()
    co = coroutine.running()
    wait()
  end)
  testing.run_until_idle()
  coroutine.close(co)
  return task
end

-- The task ends with an error about what was done to it.
local function check_end(task)
  task:cancel()
  concur.wait { task }
  local e = expect.error("InvalidState", task.result, task)
  assert.is_string(e.message)
end

describe("a task whose coroutine was closed by a stranger", function()
  it("gets no item from a queue", function()
    local queue = concur.Queue()
    local task = tampered(function()
      queue:get()
    end)
    queue:put(1)
    assert.equal(1, queue:size())
    check_end(task)
  end)

  it("puts no item into a queue", function()
    local queue = concur.Queue(1)
    queue:put(0)
    local task = tampered(function()
      queue:put(1)
    end)
    assert.equal(0, queue:get())
    assert.equal(0, queue:size())
    check_end(task)
  end)

  it("does not hold up join", function()
    local queue = concur.Queue()
    queue:put(1)
    local task = tampered(function()
      queue:join()
    end)
    queue:get()
    queue:task_done()
    queue:join()
    check_end(task)
  end)

  it("gets no lock", function()
    local lock = concur.Lock()
    lock:acquire()
    local task = tampered(function()
      lock:acquire()
    end)
    lock:release()
    assert.is_false(lock:locked())
    check_end(task)
  end)

  it("gets no permit", function()
    local semaphore = concur.Semaphore(1)
    local permit = semaphore:acquire()
    local task = tampered(function()
      semaphore:acquire()
    end)
    permit:release()
    assert.equal(1, semaphore:value())
    check_end(task)
  end)

  it("gets no token", function()
    local limiter = concur.CapacityLimiter(1)
    limiter:acquire()
    local task = tampered(function()
      limiter:acquire()
    end)
    limiter:release()
    assert.equal(0, limiter:borrowed())
    check_end(task)
  end)

  it("does not count at a barrier", function()
    local barrier = concur.Barrier(2)
    local task = tampered(function()
      barrier:wait()
    end)
    expect.error("TimeoutError", concur.timeout, 1, barrier.wait, barrier)
    check_end(task)
  end)

  it("does not hold up an event or a condition", function()
    local event, condition = concur.Event(), concur.Condition()
    local one = tampered(function()
      event:wait()
    end)
    local two = tampered(function()
      local _ <close> = condition:acquire()
      condition:wait()
    end)
    event:set()
    condition:with(condition.notify_all, condition)
    check_end(one)
    check_end(two)
  end)

  it("commits no arm of select", function()
    local queue, full, event = concur.Queue(), concur.Queue(1), concur.Event()
    full:put(0)
    local task = tampered(function()
      concur.select { queue:getting(), full:putting(1), event:waiting(), concur.after(3) }
    end)
    queue:put(1)
    assert.equal(0, full:get())
    event:set()
    assert.equal(1, queue:size())
    assert.equal(0, full:size())
    check_end(task)
    concur.sleep(5)
  end)

  it("leaves its timers and futures in order", function()
    local future = concur.Future()
    local tasks = {
      tampered(function()
        concur.sleep(5)
      end),
      tampered(function()
        concur.timeout(1, concur.sleep, 5)
      end),
      tampered(function()
        future:result()
      end),
      tampered(function()
        concur.wait { future }
      end),
    }
    future:set_result(1)
    concur.sleep(10)
    for i = 1, 4 do
      check_end(tasks[i])
    end
  end)

  it("has its children cancelled", function()
    local children = {}
    local tasks = {
      tampered(function()
        concur.task_group(function(group)
          children[1] = group:spawn(concur.sleep, 50)
        end)
      end),
      tampered(function()
        concur.gather(function()
          children[2] = concur.current_task()
          concur.sleep(50)
        end)
      end),
      tampered(function()
        concur.task_group(function(group)
          group:start(function(started)
            children[3] = concur.current_task()
            concur.sleep(50)
            started()
          end)
        end)
      end),
    }
    for i = 1, 3 do
      check_end(tasks[i])
      concur.wait { children[i] }
      assert.equal("cancelled", children[i]:state())
    end
    assert.is_true(concur.now() < 50)
  end)

  it("can be inside a generator", function()
    check_end(tampered(function()
      for _ in concur.wrap(function()
        concur.sleep(3)
        coroutine.yield()
      end) do -- luacheck: ignore
      end
    end))
    concur.sleep(5)
  end)
end)
