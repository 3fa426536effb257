-- SPDX-License-Identifier: MIT
-- Every primitive and combinator, cancelled at every step (spec/support/cancel_everywhere.lua).

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

-- Takes what is left in a queue.
local function drain(queue, into)
  while true do
    local item = queue:try_get()
    if item == nil then
      return into
    end
    into[#into + 1] = item
  end
end

local function range(n)
  local list = {}
  for i = 1, n do
    list[i] = i
  end
  return list
end

describe("the harness", function()
  it("tries every point and ends with an untouched run", function()
    local states = {}
    local runs = everywhere(function(case)
      case:victim(function()
        concur.checkpoint()
        concur.sleep(1)
        return "untouched"
      end)
      local outcome, value = case:join()
      states[#states + 1] = value or outcome
    end, { modes = { "task" } })
    assert.equal(#states, runs)
    assert.equal("cancelled", states[1])
    assert.equal("untouched", states[#states])
    assert.is_true(runs >= 9)
  end)

  it("finds a lock that loses its hand-off when the new owner is cancelled", function()
    local function BrokenLock()
      local held, waiters = false, {}
      local lock = {}
      function lock.acquire()
        if held then
          local future = concur.Future()
          waiters[#waiters + 1] = future
          future:result() -- cancelled here, it leaves its place in the queue behind
        end
        held = true
      end
      function lock.release()
        local future = table.remove(waiters, 1)
        if future then
          future:set_result()
        else
          held = false
        end
      end
      return lock
    end
    expect.message("cancelled in mode", everywhere, function(case)
      local lock = BrokenLock()
      lock.acquire()
      case:victim(function()
        lock.acquire()
        lock.release()
      end)
      testing.run_until_idle()
      local other = concur.spawn(function()
        lock.acquire()
        lock.release()
      end)
      testing.run_until_idle()
      lock.release()
      case:join()
      concur.timeout(1, concur.await, other)
    end)
  end)

  it("finds a <close> variable that was not closed", function()
    expect.message("closed 0 times", everywhere, function(case)
      case:victim(function()
        case:guard()
        concur.checkpoint()
      end)
      case:join()
    end)
  end)
end)

describe("cancelled at every step,", function()
  -- Sleeping and futures --------------------------------------------------------------------

  it("sleep and checkpoint", function()
    everywhere(function(case)
      local steps = 0
      case:victim(function()
        local _ <close> = case:guard()
        for _ = 1, 3 do
          concur.checkpoint()
          concur.sleep(1)
          steps = steps + 1
        end
        return steps
      end)
      local outcome, value = case:join()
      assert.is_true(outcome == "cancelled" or value == 3)
    end, { also = { "kill" } })
  end)

  it("result of a future: a value that has come is kept", function()
    everywhere(function(case)
      local future = concur.Future()
      local settled_before_cancel
      case:victim(function()
        local _ <close> = case:guard()
        return future:result()
      end)
      concur.spawn(function()
        concur.checkpoint()
        settled_before_cancel = not case.fired
        future:set_result "value"
      end)
      local outcome, value = case:join()
      if outcome == "done" then
        assert.equal("value", value)
      else
        assert.is_true(case.fired)
      end
      assert.equal("value", future:result())
      assert.is_boolean(settled_before_cancel)
    end)
  end)

  it("await of a task: the task goes on", function()
    everywhere(function(case)
      local task = concur.spawn(function()
        local _ <close> = case:guard()
        concur.checkpoint()
        concur.sleep(1)
        return "kept"
      end)
      case:victim(function()
        return concur.await(task)
      end)
      case:join()
      assert.equal("kept", task:result())
      assert.equal("done", task:state())
    end)
  end)

  it("suspend: the late value is refused, or delivered, never both", function()
    everywhere(function(case)
      local delivered, refused, on_cancel_calls = 0, 0, 0
      local resume
      case:victim(function()
        concur.suspend(function(go)
          resume = go
          return function()
            on_cancel_calls = on_cancel_calls + 1
          end
        end)
        delivered = delivered + 1
      end)
      concur.spawn(function()
        concur.sleep(1)
        if resume and resume "value" == false then
          refused = refused + 1
        end
      end)
      concur.sleep(2)
      local outcome = case:join()
      if resume then
        assert.equal(1, delivered + refused)
        assert.equal(outcome == "cancelled" and refused == 1 and 1 or on_cancel_calls,
          on_cancel_calls)
      end
      assert.is_true(on_cancel_calls <= 1)
    end, { modes = { "task", "again", "wait", "scope", "deadline" } }) -- must start before join
  end)

  -- Locks and friends -----------------------------------------------------------------------

  it("lock: handed on, never lost", function()
    everywhere(function(case)
      local lock, inside, entered = concur.Lock(), 0, 0
      local function use()
        local _ <close> = lock:acquire()
        inside = inside + 1
        assert.equal(1, inside)
        local _ <close> = expect.guard(function()
          inside = inside - 1
        end)
        entered = entered + 1
        concur.checkpoint()
      end
      local others = { concur.spawn(use) }
      case:victim(function()
        use()
        use()
      end)
      others[2] = concur.spawn(use)
      others[3] = concur.spawn(use)
      case:join()
      concur.wait(others)
      assert.is_false(lock:locked())
      assert.equal(0, inside)
      assert.is_true(entered >= 3 and entered <= 5)
      use()
    end, { also = { "kill" } })
  end)

  it("lock:with", function()
    everywhere(function(case)
      local lock = concur.Lock()
      case:victim(function()
        for _ = 1, 2 do
          lock:with(function()
            local _ <close> = case:guard(function()
              concur.shield(concur.checkpoint)
            end)
            concur.checkpoint()
          end)
        end
      end)
      local other = concur.spawn(function()
        return lock:with(concur.sleep, 1, "other")
      end)
      case:join()
      assert.equal("other", other:result())
      assert.is_false(lock:locked())
    end)
  end)

  it("event", function()
    everywhere(function(case)
      local event, woken = concur.Event(), 0
      local function wait()
        event:wait()
        woken = woken + 1
      end
      local others = { concur.spawn(wait) }
      case:victim(function()
        wait()
        event:wait()
      end)
      others[2] = concur.spawn(wait)
      concur.spawn(function()
        concur.checkpoint()
        event:set()
      end)
      case:join()
      concur.wait(others)
      assert.is_true(woken >= 2)
      assert.equal(0, event:waiters())
    end)
  end)

  it("condition: no notification is lost", function()
    everywhere(function(case)
      local condition, woken = concur.Condition(), 0
      local function wait()
        local _ <close> = condition:acquire()
        condition:wait()
        assert.is_true(condition:locked())
        woken = woken + 1
      end
      local before = concur.spawn(wait)
      case:victim(wait)
      local after = concur.spawn(wait)
      testing.run_until_idle()
      concur.spawn(function()
        for _ = 1, 2 do
          local _ <close> = condition:acquire()
          condition:notify()
          concur.checkpoint()
        end
      end):result()
      testing.run_until_idle()
      -- Two notifications wake two: if the victim is gone, the other two.
      assert.equal(2, woken)
      condition:with(condition.notify_all, condition)
      case:join()
      concur.wait { before, after }
      assert.is_false(condition:locked())
      assert.equal("done", before:state())
      assert.equal("done", after:state())
    end)
  end)

  it("condition:wait_for between a producer and a consumer", function()
    everywhere(function(case)
      local condition, ready = concur.Condition(), false
      local function wait()
        local _ <close> = condition:acquire()
        condition:wait_for(function()
          return ready
        end)
        assert.is_true(condition:locked())
        condition:notify(1)
      end
      case:victim(wait)
      local other = concur.spawn(wait)
      testing.run_until_idle()
      do
        local _ <close> = condition:acquire()
        ready = true
        condition:notify(1) -- one of them; the next one passes it on
      end
      case:join()
      condition:with(condition.notify_all, condition)
      other:result()
      assert.is_false(condition:locked())
    end)
  end)

  it("semaphore: no permit is lost or doubled", function()
    everywhere(function(case)
      local semaphore, inside, most = concur.Semaphore(2), 0, 0
      local function use()
        local _ <close> = semaphore:acquire()
        inside = inside + 1
        most = math.max(most, inside)
        local _ <close> = expect.guard(function()
          inside = inside - 1
        end)
        concur.checkpoint()
        concur.sleep(1)
      end
      local others = { concur.spawn(use), concur.spawn(use) }
      case:victim(function()
        use()
        use()
      end)
      others[3] = concur.spawn(use)
      case:join()
      concur.wait(others)
      assert.equal(2, semaphore:value())
      assert.is_true(most <= 2)
    end, { also = { "kill" } })
  end)

  it("semaphore:with", function()
    everywhere(function(case)
      local semaphore = concur.Semaphore(1)
      case:victim(function()
        semaphore:with(concur.checkpoint)
        semaphore:with(concur.sleep, 1)
      end)
      local other = concur.spawn(semaphore.with, semaphore, concur.sleep, 1)
      case:join()
      other:result()
      assert.equal(1, semaphore:value())
    end)
  end)

  it("capacity limiter", function()
    everywhere(function(case)
      local limiter = concur.CapacityLimiter(1)
      local function use()
        local _ <close> = limiter:acquire()
        assert.is_true(limiter:borrowed() <= 2)
        concur.checkpoint()
      end
      local others = { concur.spawn(use) }
      case:victim(function()
        use()
        use()
      end)
      others[2] = concur.spawn(use)
      concur.checkpoint()
      limiter:total(2)
      case:join()
      concur.wait(others)
      assert.equal(0, limiter:borrowed())
      assert.equal(2, limiter:available())
    end, { also = { "kill" } })
  end)

  it("barrier: the count is right", function()
    everywhere(function(case)
      local barrier, passed = concur.Barrier(3), 0
      local function meet()
        barrier:wait()
        passed = passed + 1
      end
      local others = { concur.spawn(meet) }
      case:victim(meet)
      others[2] = concur.spawn(meet)
      testing.run_until_idle()
      local outcome = case:join()
      if outcome == "cancelled" then
        assert.equal(0, passed)
        assert.equal(2, barrier:waiters())
        meet()
      end
      concur.wait(others)
      assert.equal(3, passed)
      assert.equal(0, barrier:waiters())
    end)
  end)

  -- Queues ------------------------------------------------------------------------------------

  for _, name in ipairs { "Queue", "LifoQueue", "PriorityQueue" } do
    it(name .. " get: every item comes out exactly once", function()
      everywhere(function(case)
        local queue, got = concur[name](), {}
        local function consume()
          for item in queue:iter() do
            got[#got + 1] = item
            concur.checkpoint()
          end
        end
        case:victim(consume)
        local other = concur.spawn(consume)
        for i = 1, 6 do
          queue:put(i)
          concur.checkpoint()
        end
        queue:close()
        case:join()
        other:result()
        table.sort(got)
        assert.same(range(6), got)
      end)
    end)

    it(name .. " put: Cancelled means that the item is not in it", function()
      everywhere(function(case)
        local queue, put, got = concur[name](1), {}, {}
        case:victim(function()
          for i = 1, 4 do
            queue:put(i)
            put[#put + 1] = i
          end
        end)
        local consumer = concur.spawn(function()
          while true do
            local finished, item = concur.move_on_after(1, queue.get, queue)
            if not finished then
              return
            end
            got[#got + 1] = item
            concur.checkpoint()
          end
        end)
        case:join()
        consumer:result()
        drain(queue, got)
        table.sort(got)
        assert.same(put, got)
      end)
    end)
  end

  it("queue with many getters and putters", function()
    everywhere(function(case)
      local queue, put, got = concur.Queue(2), {}, {}
      local function produce(base)
        for i = 1, 2 do
          queue:put(base + i)
          put[#put + 1] = base + i
        end
      end
      local function consume()
        for _ = 1, 2 do
          local item = queue:get() -- first: another one may grow the list meanwhile
          got[#got + 1] = item
        end
      end
      local others = { concur.spawn(produce, 10), concur.spawn(consume) }
      case:victim(function()
        produce(20)
        consume()
      end)
      others[3] = concur.spawn(produce, 30)
      others[4] = concur.spawn(consume)
      testing.run_until_idle()
      case:join()
      -- Whoever is stuck now is stuck rightly; end them and count.
      for _, task in ipairs(others) do
        task:cancel()
      end
      concur.wait(others)
      drain(queue, got)
      table.sort(put)
      table.sort(got)
      assert.same(put, got)
    end)
  end)

  it("queue closed while the victim waits", function()
    everywhere(function(case)
      local queue, full = concur.Queue(), concur.Queue(1)
      full:put "in"
      case:victim(function()
        local item, e = queue:get()
        assert.is_nil(item)
        assert.equal("Closed", e.kind)
        expect.error("Closed", full.put, full, "out")
      end)
      concur.spawn(function()
        concur.checkpoint()
        queue:close()
        concur.checkpoint()
        full:close()
      end)
      case:join()
      concur.sleep(1)
      assert.same({ "in" }, drain(full, {}))
    end, { modes = { "task", "scope", "wait" } })
  end)

  it("queue join", function()
    everywhere(function(case)
      local queue = concur.Queue()
      queue:put(1)
      queue:put(2)
      case:victim(function()
        queue:join()
        assert.equal(0, queue:size())
      end)
      local worker = concur.spawn(function()
        for _ = 1, 2 do
          queue:get()
          concur.checkpoint()
          queue:task_done()
        end
      end)
      case:join()
      worker:result()
      queue:join()
    end)
  end)

  -- select --------------------------------------------------------------------------------

  it("select: one arm is committed or none", function()
    everywhere(function(case)
      local one, two, taken = concur.Queue(), concur.Queue(), {}
      case:victim(function()
        for _ = 1, 3 do
          local _, item = concur.select { one:getting(), two:getting() }
          taken[#taken + 1] = item
        end
      end)
      local producer = concur.spawn(function()
        for i = 1, 3 do
          one:put(i)
          two:put(i + 3)
          concur.checkpoint()
        end
      end)
      case:join()
      producer:result()
      drain(one, taken)
      drain(two, taken)
      table.sort(taken)
      assert.same(range(6), taken)
    end)
  end)

  it("select: a putting arm puts once or not at all", function()
    everywhere(function(case)
      local full, event, committed = concur.Queue(1), concur.Event(), {}
      full:put "old"
      case:victim(function()
        committed[1] = concur.select { put = full:putting "new", set = event:waiting() }
      end)
      concur.spawn(function()
        concur.checkpoint()
        event:set()
      end)
      local getter = concur.spawn(full.get, full)
      case:join()
      assert.equal("old", getter:result())
      local left = drain(full, {})
      assert.same(committed[1] == "put" and { "new" } or {}, left)
      concur.sleep(1)
    end)
  end)

  it("select against select: both or neither", function()
    everywhere(function(case)
      local queue, sent, got = concur.Queue(1), nil, {}
      queue:put "filler"
      case:victim(function()
        if concur.select { put = queue:putting "message", late = concur.after(5) } == "put" then
          sent = "message"
        end
      end)
      local receiver = concur.spawn(function()
        for _ = 1, 2 do
          local key, item = concur.select { get = queue:getting(), late = concur.after(2) }
          if key == "get" then
            got[#got + 1] = item
          end
        end
      end)
      case:join()
      receiver:result()
      drain(queue, got)
      assert.same({ "filler", sent }, got)
    end)
  end)

  it("select: futures, events and timers leave nothing behind", function()
    everywhere(function(case)
      local future, event = concur.Future(), concur.Event()
      case:victim(function()
        concur.select { f = future, e = event:waiting(), t = concur.after(3) }
        concur.select { f = future, e = event:waiting(), t = concur.after(3) }
      end)
      concur.spawn(function()
        concur.sleep(1)
        event:set()
        event:clear()
        concur.sleep(1)
        future:set_result(1)
      end)
      case:join()
      assert.equal(0, event:waiters())
      concur.sleep(5)
    end)
  end)

  -- Combinators ---------------------------------------------------------------------------

  -- Children that count how many of them are alive.
  local function Crew(case)
    local crew = { alive = 0 }
    function crew.work(seconds, value)
      crew.alive = crew.alive + 1
      local _ <close> = case:guard(function()
        concur.shield(concur.checkpoint)
        crew.alive = crew.alive - 1
      end)
      concur.checkpoint()
      concur.sleep(seconds)
      return value
    end
    function crew.worker(seconds, value)
      return function()
        return crew.work(seconds, value)
      end
    end
    return crew
  end

  it("gather of functions: all are joined", function()
    everywhere(function(case)
      local crew = Crew(case)
      case:victim(function()
        local _ <close> = expect.guard(function()
          assert.is_true(crew.alive == 0 or case.mode.orphans)
        end)
        return concur.gather(crew.worker(1, "a"), crew.worker(2, "b"))
      end)
      local outcome, a, b = case:join()
      assert.equal(0, crew.alive)
      if outcome == "done" then
        assert.same({ "a", "b" }, { a, b })
      end
    end, { also = { "kill" } })
  end)

  it("gather of tasks: they are cancelled and joined", function()
    everywhere(function(case)
      local crew = Crew(case)
      local task = concur.spawn(crew.work, 1, "a")
      local future = concur.Future()
      case:victim(function()
        return concur.gather(task, future, crew.worker(2, "c"))
      end)
      concur.spawn(function()
        concur.sleep(1.5)
        future:set_result "b"
      end)
      local outcome, a, b, c = case:join()
      -- A victim that was cancelled before it reached gather has not taken the task over.
      concur.wait { task }
      assert.equal(0, crew.alive)
      if outcome == "done" then
        assert.same({ "a", "b", "c" }, { a, b, c })
      end
      concur.sleep(2)
    end)
  end)

  it("gather with an error: the error or the cancellation, and nobody is left", function()
    everywhere(function(case)
      case:allow_reports()
      local crew = Crew(case)
      case:victim(function()
        return concur.gather(crew.worker(5), function()
          concur.sleep(1)
          error("boom", 0)
        end)
      end)
      local outcome, e = case:join()
      assert.is_true(outcome == "cancelled" or outcome == "failed" and e == "boom")
      assert.equal(0, crew.alive)
    end)
  end)

  it("settle", function()
    everywhere(function(case)
      case:allow_reports()
      local crew = Crew(case)
      case:victim(function()
        return concur.settle(crew.worker(1, "a"), function()
          error("boom", 0)
        end)
      end)
      local outcome, a, b = case:join()
      assert.equal(0, crew.alive)
      if outcome == "done" then
        assert.is_true(a.ok)
        assert.equal("boom", b.error)
      end
    end)
  end)

  it("race and any: the losers are joined", function()
    for _, name in ipairs { "race", "any" } do
      everywhere(function(case)
        local crew = Crew(case)
        case:victim(function()
          return concur[name](crew.worker(1, "fast"), crew.worker(5, "slow"))
        end)
        local outcome, key, value = case:join()
        assert.equal(0, crew.alive)
        if outcome == "done" then
          assert.same({ 1, "fast" }, { key, value })
        end
      end)
    end
  end)

  it("wait and as_completed cancel nothing", function()
    everywhere(function(case)
      local crew = Crew(case)
      local tasks = { concur.spawn(crew.work, 2, "b"), concur.spawn(crew.work, 1, "a") }
      local seen = {}
      case:victim(function()
        concur.wait(tasks, { return_when = "first" })
        for task in concur.as_completed(tasks) do
          seen[#seen + 1] = task:result()
        end
        concur.wait(tasks)
      end)
      local outcome = case:join()
      assert.equal("b", tasks[1]:result())
      assert.equal("a", tasks[2]:result())
      if outcome == "done" then
        assert.same({ "a", "b" }, seen)
      end
    end)
  end)

  it("wait with a timeout", function()
    everywhere(function(case)
      local task = concur.spawn(concur.sleep, 2, "x")
      case:victim(function()
        local done, pending = concur.wait({ task }, { timeout = 1 })
        assert.equal(0, #done)
        assert.equal(1, #pending)
      end)
      case:join()
      assert.equal("x", task:result())
    end)
  end)

  -- Scopes and groups ---------------------------------------------------------------------

  it("timeout around an operation", function()
    everywhere(function(case)
      local queue = concur.Queue()
      case:victim(function()
        local ok, e = pcall(concur.timeout, 1, function()
          local _ <close> = case:guard(function()
            concur.shield(concur.sleep, 1)
          end)
          return queue:get()
        end)
        if not ok and e.kind ~= "TimeoutError" then
          error(e, 0)
        end
        concur.timeout(5, concur.sleep, 1)
      end)
      local outcome = case:join()
      assert.is_true(outcome ~= "failed")
      concur.checkpoint()
    end)
  end)

  it("nested timeouts, shields and scopes", function()
    everywhere(function(case)
      local shielded_ended
      case:victim(function()
        concur.timeout(10, function()
          concur.move_on_after(1, function()
            local _ <close> = case:guard()
            concur.cancel_scope(function(scope)
              local _ <close> = case:guard()
              concur.shield(function()
                shielded_ended = false
                concur.sleep(2)
                concur.checkpoint()
                shielded_ended = true
              end)
              scope:cancel()
              concur.checkpoint()
            end)
            concur.checkpoint()
          end)
          concur.sleep(1)
        end)
      end)
      case:join()
      -- Whatever happened outside, a shield that was entered was left in order.
      assert.is_not_equal(false, shielded_ended)
    end)
  end)

  it("a scope that is toggled between shielded and not", function()
    everywhere(function(case)
      local kept
      case:victim(function()
        concur.cancel_scope(function(scope)
          kept = scope
          local _ <close> = case:guard()
          concur.sleep(1)
          scope:shield(true)
          concur.sleep(1)
          scope:shield(false)
          concur.sleep(1)
        end)
      end)
      concur.spawn(function()
        concur.sleep(0.5)
        if kept then
          pcall(kept.shield, kept, true) -- raises when the scope was left
          pcall(kept.shield, kept, false)
        end
      end)
      case:join()
      concur.sleep(1)
    end)
  end)

  it("task_group: all children end before it is left", function()
    everywhere(function(case)
      local crew = Crew(case)
      case:victim(function()
        local _ <close> = expect.guard(function()
          assert.is_true(crew.alive == 0 or case.mode.orphans)
        end)
        return concur.task_group(function(group)
          group:spawn(crew.work, 1)
          group:spawn(crew.work, 2)
          concur.checkpoint()
          group:spawn(crew.work, 1)
          return "body"
        end)
      end)
      local outcome, value = case:join()
      assert.equal(0, crew.alive)
      assert.is_true(outcome == "cancelled" or value == "body")
    end, { also = { "kill" } })
  end)

  it("nested groups with an error inside", function()
    everywhere(function(case)
      local crew = Crew(case)
      case:victim(function()
        concur.task_group(function(outer)
          outer:spawn(crew.work, 3)
          concur.task_group(function(inner)
            inner:spawn(crew.work, 3)
            inner:spawn(function()
              concur.sleep(1)
              error("boom", 0)
            end)
          end)
        end)
      end)
      local outcome, e = case:join()
      assert.equal(0, crew.alive)
      if outcome == "failed" then
        assert.equal("ErrorGroup", e.kind)
        assert.equal("boom", e.errors[1].errors[1])
      else
        assert.equal("cancelled", outcome)
      end
    end)
  end)

  it("group:start", function()
    everywhere(function(case)
      local crew = Crew(case)
      case:victim(function()
        concur.task_group(function(group)
          assert.equal("up", group:start(function(started)
            local _ <close> = case:guard(function()
              concur.shield(concur.sleep, 1)
            end)
            concur.sleep(1)
            started "up"
            crew.work(1)
          end))
          concur.checkpoint()
        end)
      end)
      local outcome = case:join()
      assert.equal(0, crew.alive)
      assert.is_true(outcome ~= "failed")
    end, { also = { "kill" } })
  end)

  it("group:start from a task outside the group", function()
    everywhere(function(case)
      local crew = Crew(case)
      concur.task_group(function(group)
        case:victim(function()
          group:start(function(started)
            concur.checkpoint()
            started()
            crew.work(1)
          end)
          concur.checkpoint()
        end)
        case:join()
      end)
      assert.equal(0, crew.alive)
    end)
  end)

  it("a group that its own child cancels", function()
    everywhere(function(case)
      local crew = Crew(case)
      case:victim(function()
        concur.task_group(function(group)
          group:spawn(crew.work, 5)
          group:spawn(function()
            concur.sleep(1)
            group:cancel()
          end)
          concur.sleep(3)
          error "not reached"
        end)
        concur.checkpoint()
      end)
      local outcome = case:join()
      assert.equal(0, crew.alive)
      assert.is_true(outcome ~= "failed")
    end)
  end)

  it("a child of a group: its siblings go on", function()
    everywhere(function(case)
      local sibling
      concur.task_group(function(group)
        sibling = group:spawn(concur.sleep, 3, "sibling")
        group:spawn(function()
          case:victim(function()
            local _ <close> = case:guard()
            concur.sleep(1)
          end)
          case:join()
        end)
      end)
      assert.equal("sibling", sibling:result())
    end)
  end)

  it("clean-up that waits, in several levels", function()
    everywhere(function(case)
      local order = {}
      case:victim(function()
        local _ <close> = case:guard(function()
          concur.shield(concur.sleep, 1)
          order[#order + 1] = "outer"
        end)
        concur.checkpoint()
        local _ <close> = case:guard(function()
          concur.shield(function()
            concur.task_group(function(group)
              group:spawn(concur.sleep, 1)
              group:spawn(concur.checkpoint)
            end)
          end)
          order[#order + 1] = "inner"
        end)
        concur.sleep(1)
      end)
      case:join()
      assert.equal("outer", order[#order] or "outer")
    end)
  end)

  it("clean-up that is itself cancelled stops, and the rest runs", function()
    everywhere(function(case)
      local closed = {}
      case:victim(function()
        local _ <close> = case:guard(function()
          closed[#closed + 1] = "outer"
        end)
        local _ <close> = case:guard(function()
          closed[#closed + 1] = "inner"
          concur.sleep(1) -- not shielded: raises when cancelled
        end)
        concur.sleep(1)
      end)
      case:join()
      assert.is_true(#closed == 0 or #closed == 2)
    end)
  end)

  it("generators: closed once, the task goes on", function()
    everywhere(function(case)
      local seen = {}
      case:victim(function()
        local step <close> = concur.wrap(function()
          local _ <close> = case:guard(function()
            concur.shield(concur.checkpoint)
          end)
          for i = 1, 3 do
            concur.sleep(1)
            coroutine.yield(i)
          end
        end)
        for i in step do
          seen[#seen + 1] = i
          concur.checkpoint()
        end
      end)
      local outcome = case:join()
      assert.is_true(outcome == "cancelled" or #seen == 3)
    end)
  end)

  it("ContextVar:with puts the value back", function()
    everywhere(function(case)
      local var = concur.ContextVar("default")
      case:victim(function()
        local _ <close> = case:guard(function()
          assert.equal("default", var:get())
        end)
        var:with("inner", function()
          concur.checkpoint()
          assert.equal("inner", var:get())
          concur.sleep(1)
        end)
        concur.checkpoint()
      end)
      case:join()
    end, { also = { "kill" } })
  end)

  it("run_until_idle", function()
    everywhere(function(case)
      case:victim(function()
        testing.run_until_idle()
        concur.sleep(1)
        testing.run_until_idle()
      end)
      case:join()
      testing.run_until_idle()
    end)
  end)

  -- Together ------------------------------------------------------------------------------

  it("a pipeline of groups, queues, locks and timeouts", function()
    everywhere(function(case)
      local input, output, lock = concur.Queue(2), concur.Queue(1), concur.Lock()
      local workers = concur.Semaphore(1)
      local put, got = 0, 0
      case:victim(function()
        concur.timeout(20, concur.task_group, function(group)
          local _ <close> = case:guard(function()
            concur.shield(concur.checkpoint)
          end)
          group:spawn(function()
            for i = 1, 3 do
              input:put(i)
            end
            input:close()
          end)
          concur.task_group(function(inner)
            for _ = 1, 2 do
              inner:spawn(function()
                for item in input:iter() do
                  local _ <close> = workers:acquire()
                  local _ <close> = lock:acquire()
                  concur.move_on_after(1, concur.sleep, item)
                  put = put + 1
                  output:put(item)
                end
              end)
            end
            inner:spawn(function()
              for _ = 1, 3 do
                output:get()
                got = got + 1
              end
            end)
          end)
        end)
      end)
      local outcome = case:join()
      assert.is_true(outcome ~= "failed")
      assert.is_false(lock:locked())
      assert.equal(1, workers:value())
      assert.is_true(put - got <= 2)
      if outcome == "done" then
        assert.equal(3, got)
      end
    end)
  end)

  it("a victim that swallows every cancellation still ends by itself", function()
    everywhere(function(case)
      local lock, queue = concur.Lock(), concur.Queue()
      queue:put(1)
      case:victim(function()
        pcall(function()
          local _ <close> = lock:acquire()
          concur.checkpoint()
        end)
        pcall(queue.get, queue)
        pcall(concur.task_group, function(group)
          group:spawn(concur.sleep, 1)
        end)
        pcall(concur.select, { queue:getting(), concur.after(1) })
        pcall(concur.gather, concur.checkpoint, concur.checkpoint)
        return "ended"
      end)
      local outcome, value = case:join()
      assert.same({ "done", "ended" }, { outcome, value })
      assert.is_false(lock:locked())
      concur.checkpoint()
    end, { modes = { "task", "again", "wait" } })
  end)
end)
