-- SPDX-License-Identifier: MIT
-- Scopes, groups and primitives at top level, where no task runs: a wait there drives the loop.

local concur = require "concur"
local expect = require "spec.support.expect"

local SHORT = 0.01 -- seconds; nothing here depends on how long it really takes

describe("at top level", function()
  it("there is no task, no scope and no deadline", function()
    assert.is_nil(concur.current_task())
    assert.is_nil(concur.current_scope())
    assert.equal(math.huge, concur.effective_deadline())
  end)

  it("timeout raises TimeoutError, and returns results when there is time", function()
    expect.error("TimeoutError", concur.timeout, SHORT, concur.sleep, 60)
    assert.same({ 1, 2 }, { concur.timeout(60, concur.sleep, SHORT, 1, 2) })
    assert.equal(math.huge, concur.effective_deadline())
  end)

  it("move_on_after moves on", function()
    assert.is_false(concur.move_on_after(SHORT, concur.sleep, 60))
    assert.same({ true, "x" }, { concur.move_on_after(60, concur.sleep, SHORT, "x") })
  end)

  it("nested timeouts: the outer one catches what is its own", function()
    local inner
    expect.error("TimeoutError", concur.timeout, SHORT, function()
      local _, e = pcall(concur.timeout, 60, concur.sleep, 60)
      inner = e.kind
      error(e, 0)
    end)
    assert.equal("Cancelled", inner)
  end)

  it("a scope is cancelled by a task", function()
    assert.is_false(concur.cancel_scope(function(scope)
      concur.spawn(function()
        scope:cancel()
      end)
      concur.sleep(60)
    end))
    concur.checkpoint()
  end)

  it("a shield keeps the deadline of an outer scope out", function()
    local slept = false
    assert.is_false(concur.move_on_after(SHORT, function()
      concur.shield(concur.sleep, 3 * SHORT)
      slept = true
      concur.checkpoint()
    end))
    assert.is_true(slept)
  end)

  it("a cancelled scope stays cancelled, and leaves nothing behind", function()
    concur.cancel_scope(function(scope)
      scope:cancel()
      for _ = 1, 3 do
        expect.error("Cancelled", concur.checkpoint)
      end
      concur.checkpoint()
    end)
    concur.checkpoint()
  end)

  it("task_group waits for its children and raises their errors", function()
    local ended = 0
    assert.equal("body", concur.task_group(function(group)
      for _ = 1, 3 do
        group:spawn(function()
          concur.sleep(SHORT)
          ended = ended + 1
        end)
      end
      return "body"
    end))
    assert.equal(3, ended)
    expect.group({ "boom" }, concur.task_group, function(group)
      group:spawn(concur.sleep, 60)
      group:spawn(error, "boom", 0)
      concur.sleep(60)
    end)
  end)

  it("task_group is cancelled from inside and by a timeout around it", function()
    local child
    concur.task_group(function(group)
      child = group:spawn(concur.sleep, 60)
      group:spawn(function()
        group:cancel()
      end)
      concur.sleep(60)
    end)
    assert.equal("cancelled", child:state())
    expect.error("TimeoutError", concur.timeout, SHORT, concur.task_group, function(group)
      child = group:spawn(concur.sleep, 60)
    end)
    assert.equal("cancelled", child:state())
  end)

  it("group:start waits for the child to say so", function()
    concur.task_group(function(group)
      assert.equal("up", group:start(function(started)
        concur.sleep(SHORT)
        started "up"
      end))
    end)
  end)

  it("a lock belongs to the top level, and is handed to a task", function()
    local lock = concur.Lock()
    local order = {}
    lock:acquire()
    local task = concur.spawn(function()
      local _ <close> = lock:acquire()
      order[#order + 1] = "task"
    end)
    concur.sleep(SHORT)
    assert.same({}, order)
    expect.error("InvalidState", lock.acquire, lock)
    lock:release()
    task:result()
    assert.same({ "task" }, order)
    do
      local _ <close> = lock:acquire()
      assert.is_true(lock:locked())
    end
    assert.is_false(lock:locked())
  end)

  it("a wait for a lock that a task holds drives the loop", function()
    local lock = concur.Lock()
    local task = concur.spawn(function()
      local _ <close> = lock:acquire()
      concur.sleep(SHORT)
    end)
    concur.checkpoint()
    assert.equal("held", lock:with(function()
      return "held"
    end))
    task:result()
  end)

  it("queues, events, semaphores and barriers work between the top level and tasks", function()
    local queue, event, semaphore, barrier =
      concur.Queue(1), concur.Event(), concur.Semaphore(1), concur.Barrier(2)
    local task = concur.spawn(function()
      for i = 1, 5 do
        queue:put(i)
      end
      event:set()
      local _ <close> = semaphore:acquire()
      barrier:wait()
      return "met"
    end)
    for i = 1, 5 do
      assert.equal(i, queue:get())
    end
    event:wait()
    barrier:wait()
    assert.equal("met", task:result())
    local _ <close> = semaphore:acquire()
    assert.equal(0, semaphore:value())
  end)

  it("a value from a hand-off reaches the top level", function()
    local queue = concur.Queue()
    concur.get_event_loop():call_later(SHORT, queue.try_put, queue, "late")
    assert.equal("late", queue:get())
    expect.error("TimeoutError", concur.timeout, SHORT, queue.get, queue)
    queue:put "kept"
    assert.equal(1, queue:size())
  end)

  it("conditions and limiters know the top level as an owner", function()
    local condition, limiter = concur.Condition(), concur.CapacityLimiter(1)
    local ready = false
    local task = concur.spawn(function()
      local _ <close> = condition:acquire()
      ready = true
      condition:notify()
    end)
    do
      local _ <close> = condition:acquire()
      condition:wait_for(function()
        return ready
      end)
    end
    task:result()
    do
      local _ <close> = limiter:acquire()
      expect.error("InvalidState", limiter.acquire, limiter)
      assert.equal(1, limiter:borrowed())
    end
    assert.equal(0, limiter:borrowed())
  end)

  it("select waits for the first arm", function()
    local queue, future = concur.Queue(), concur.Future()
    concur.spawn(function()
      concur.sleep(SHORT)
      queue:put "item"
    end)
    assert.same({ "q", "item" }, {
      concur.select { q = queue:getting(), f = future, late = concur.after(60) },
    })
    assert.equal("late", (concur.select { f = future, late = concur.after(SHORT) }))
  end)

  it("a generator may wait between its values", function()
    local seen = {}
    for i in concur.wrap(function()
      for i = 1, 3 do
        concur.sleep(SHORT / 10)
        coroutine.yield(i)
      end
    end) do
      seen[#seen + 1] = i
    end
    assert.same({ 1, 2, 3 }, seen)
  end)

  it("a context variable keeps its value, and tasks inherit it", function()
    local var = concur.ContextVar("default")
    var:set("top")
    assert.equal("top", concur.spawn(var.get, var):result())
    assert.equal("inner", var:with("inner", var.get, var))
    assert.equal("top", var:get())
  end)

  it("<close> variables wait while an error is on its way", function()
    local closed = false
    expect.same_error("boom", concur.cancel_scope, function()
      local _ <close> = expect.guard(function()
        concur.sleep(SHORT)
        closed = true
      end)
      error("boom", 0)
    end)
    assert.is_true(closed)
  end)

  it("a coroutine that was left inside a scope does not cancel the others", function()
    local co = coroutine.create(function()
      concur.cancel_scope(function(scope)
        scope:cancel()
        coroutine.yield() -- at top level any coroutine may open a scope
        concur.checkpoint()
      end)
    end)
    assert.is_true((coroutine.resume(co)))
    concur.checkpoint()
    assert.equal(math.huge, concur.effective_deadline())
    coroutine.close(co)
    concur.checkpoint()
  end)

  it("leaving a scope before one that was opened inside it is an error, on both sides", function()
    local co
    local function leave_one_open()
      co = coroutine.create(function()
        concur.cancel_scope(function()
          coroutine.yield()
        end)
      end)
      assert(coroutine.resume(co))
    end
    local openers = {
      cancel_scope = function() concur.cancel_scope(leave_one_open) end,
      shield = function() concur.shield(leave_one_open) end,
      timeout = function() concur.timeout(60, leave_one_open) end,
      move_on_after = function() concur.move_on_after(60, leave_one_open) end,
      task_group = function() concur.task_group(leave_one_open) end,
    }
    for name, open in pairs(openers) do
      local e = expect.error("InvalidState", open)
      assert.matches("out of order", e.message, 1, true)
      local ok, inner = coroutine.resume(co)
      assert.is_false(ok, name)
      assert.equal("InvalidState", inner.kind)
      concur.checkpoint()
      assert.equal(math.huge, concur.effective_deadline())
    end
  end)

  it("a wait that nothing can end is a Deadlock, also inside scopes, and the script goes on",
    function()
      local lock = concur.Lock()
      local queue = concur.Queue()
      expect.error("Deadlock", queue.get, queue)
      expect.error("Deadlock", concur.cancel_scope, function()
        queue:get()
      end)
      expect.error("Deadlock", concur.task_group, function(group)
        group:spawn(queue.get, queue)
      end)
      lock:acquire()
      lock:release()
      concur.checkpoint()
      queue:put "fine"
      assert.equal("fine", queue:get())
    end)
end)
