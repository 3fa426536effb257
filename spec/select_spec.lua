-- SPDX-License-Identifier: MIT
-- select: exactly one arm is committed, nothing is lost.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

describe("select", function()
  it("returns the key of the arm and its results", function()
    local queue = concur.Queue()
    queue:put("item")
    assert.same({ "get", "item" }, { concur.select { get = queue:getting() } })
    local future = concur.Future()
    future:set_result(1, nil, 3)
    assert.same({ "f", 1, nil, 3, n = 4 }, table.pack(concur.select { f = future }))
  end)

  it("takes keys of any kind, list positions too", function()
    local key = {}
    local event = concur.Event()
    event:set()
    assert.equal(key, (concur.select { [key] = event:waiting() }))
    assert.equal(2, (concur.select { concur.Queue():getting(), event:waiting() }))
    assert.equal(true, (concur.select { [true] = event:waiting() }))
  end)

  it("waits for the first arm that can be committed", function()
    local one, two = concur.Queue(), concur.Queue()
    concur.get_event_loop():call_later(1, two.try_put, two, "second")
    local start = concur.now()
    assert.same({ "two", "second" }, {
      concur.select { one = one:getting(), two = two:getting() },
    })
    assert.near(1, concur.now() - start, 1e-6)
  end)

  it("commits exactly one of several that are ready; the others stay as they are", function()
    local queues = {}
    local arms = {}
    for i = 1, 4 do
      queues[i] = concur.Queue()
      queues[i]:put(i)
      arms[i] = queues[i]:getting()
    end
    local key, item = concur.select(arms)
    assert.equal(key, item)
    local left = 0
    for i = 1, 4 do
      left = left + queues[i]:size()
      assert.equal(i == key and 0 or 1, queues[i]:size())
    end
    assert.equal(3, left)
  end)

  it("two items in the same turn: one is taken, the other stays", function()
    local one, two = concur.Queue(), concur.Queue()
    local task = concur.spawn(function()
      return concur.select { one = one:getting(), two = two:getting() }
    end)
    testing.run_until_idle()
    one:put(1)
    two:put(2)
    local key, item = task:result()
    assert.same({ "one", 1 }, { key, item })
    assert.equal(0, one:size())
    assert.equal(1, two:size())
    assert.equal(2, two:get())
  end)

  it("an arm that was not taken is off the list: later items stay for others", function()
    local one, two = concur.Queue(), concur.Queue()
    one:put(1)
    concur.select { one:getting(), two:getting() }
    two:put(2)
    assert.equal(1, two:size())
    assert.equal(2, two:get())
  end)

  it("puts into a queue when there is room", function()
    local full = concur.Queue(1)
    full:put "old"
    local task = concur.spawn(function()
      return concur.select { put = full:putting("new"), get = concur.Queue():getting() }
    end)
    testing.run_until_idle()
    assert.equal("pending", task:state())
    assert.equal("old", full:get())
    assert.equal("put", (task:result()))
    assert.equal("new", full:get())
  end)

  it("that does not take its putting arm leaves no item", function()
    local full, event = concur.Queue(1), concur.Event()
    full:put "old"
    local task = concur.spawn(function()
      return (concur.select { put = full:putting("new"), set = event:waiting() })
    end)
    testing.run_until_idle()
    event:set()
    assert.equal("set", task:result())
    assert.equal("old", full:get())
    assert.is_true(full:empty())
  end)

  it("between two selects: one puts, the other gets, once", function()
    local queue = concur.Queue(1)
    queue:put "first"
    local sender = concur.spawn(function()
      return (concur.select { s = queue:putting("second"), t = concur.after(10) })
    end)
    local receiver = concur.spawn(function()
      return concur.select { r = queue:getting(), t = concur.after(10) }
    end)
    local key, item = receiver:result()
    assert.same({ "r", "first" }, { key, item })
    assert.equal("s", sender:result())
    assert.equal("second", queue:get())
  end)

  it("takes an event", function()
    local event = concur.Event()
    concur.get_event_loop():call_later(2, event.set, event)
    assert.equal("set", (concur.select { set = event:waiting(), never = concur.Future() }))
    assert.is_true(event:is_set())
  end)

  it("takes after(s) as a time limit", function()
    local start = concur.now()
    assert.equal("late", (concur.select { late = concur.after(3), q = concur.Queue():getting() }))
    assert.near(3, concur.now() - start, 1e-6)
    assert.equal("now", (concur.select { now = concur.after(0) }))
  end)

  it("leaves no timer behind when another arm is taken", function()
    local queue = concur.Queue()
    queue:put(1)
    local before = testing.counters().timers
    concur.select { queue:getting(), concur.after(1000) }
    assert.equal(before, testing.counters().timers)
  end)

  it("takes tasks and futures, and leaves the others running", function()
    local slow = concur.spawn(concur.sleep, 5, "slow")
    local fast = concur.spawn(concur.sleep, 1, "fast")
    assert.same({ "fast", "fast" }, { concur.select { slow = slow, fast = fast } })
    assert.equal("pending", slow:state())
    assert.equal("slow", slow:result())
  end)

  it("raises the error of the future it took", function()
    local failing = concur.spawn(function()
      concur.sleep(1)
      error("boom", 0)
    end)
    expect.same_error("boom", concur.select, { f = failing, q = concur.Queue():getting() })
    local cancelled = concur.spawn(concur.sleep, 10)
    concur.checkpoint()
    cancelled:cancel()
    expect.error("FutureCancelled", concur.select, { cancelled })
  end)

  it("gives nil and Closed from a queue that is closed", function()
    local queue = concur.Queue()
    local task = concur.spawn(function()
      return table.pack(concur.select { q = queue:getting() })
    end)
    testing.run_until_idle()
    queue:close()
    local results = task:result()
    assert.equal("q", results[1])
    assert.is_nil(results[2])
    assert.equal("Closed", results[3].kind)
  end)

  it("raises Closed from putting into a queue that is closed", function()
    local queue = concur.Queue(1)
    queue:put(1)
    local task = concur.spawn(concur.select, { p = queue:putting(2) })
    testing.run_until_idle()
    queue:close()
    expect.error("Closed", task.result, task)
  end)

  it("sees at once that a queue is closed", function()
    local queue = concur.Queue(1)
    queue:put "last"
    queue:close()
    expect.error("Closed", concur.select, { queue:putting(2) })
    assert.same({ 1, "last" }, { concur.select { queue:getting() } })
    local key, value, err = concur.select { got = queue:getting() }
    assert.same({ "got", nil, "Closed" }, { key, value, err.kind })
  end)

  it("raises what the comparison of a queue says of the item that it puts", function()
    local queue = concur.PriorityQueue(2)
    queue:put(1)
    queue:put(2)
    local task = concur.spawn(concur.select, { queue:putting "no number", concur.after(1000) })
    local other = concur.spawn(queue.put, queue, 3)
    testing.run_until_idle()
    assert.equal(1, queue:get())
    expect.message("attempt to compare", task.result, task)
    other:result() -- the room went to the next one
    assert.same({ 2, 3 }, { queue:get(), (queue:get()) })
  end)

  it("an arm that waits in one select cannot be in another at the same time", function()
    local queue = concur.Queue()
    local arm = queue:getting()
    local task = concur.spawn(concur.select, { arm })
    testing.run_until_idle()
    expect.error("InvalidState", concur.select, { arm })
    queue:put "item"
    assert.same({ 1, "item" }, { task:result() })
  end)

  it("whose coroutine a stranger closed puts nothing", function()
    local queue, co = concur.Queue(1), nil
    queue:put(1)
    local task = concur.spawn(function()
      co = coroutine.running()
      concur.select { queue:putting "never" }
    end)
    local other = concur.spawn(queue.put, queue, 2)
    testing.run_until_idle()
    coroutine.close(co)
    assert.same({ 1, 2 }, { queue:get(), (queue:get()) })
    other:result()
    assert.is_false((pcall(task.result, task)))
    assert.equal(0, queue:size())
  end)

  it("takes two arms of the same queue", function()
    local queue = concur.Queue()
    local task = concur.spawn(concur.select, { queue:getting(), queue:getting() })
    testing.run_until_idle()
    queue:put "once"
    local _, item = task:result()
    assert.equal("once", item)
    assert.equal(0, queue:size())
    queue:put "again"
    assert.equal(1, queue:size())
  end)

  it("an arm may be used in many selects", function()
    local queue = concur.Queue()
    local arm = queue:getting()
    for i = 1, 3 do
      queue:put(i)
      local _, item = concur.select { arm }
      assert.equal(i, item)
    end
  end)

  it("keeps its place in the queue: first come, first served with plain getters", function()
    local queue, order = concur.Queue(), {}
    local one = concur.spawn(function()
      concur.select { queue:getting(), concur.Queue():getting() }
      order[#order + 1] = "select"
    end)
    testing.run_until_idle()
    local two = concur.spawn(function()
      queue:get()
      order[#order + 1] = "get"
    end)
    testing.run_until_idle()
    queue:put(1)
    queue:put(2)
    concur.wait { one, two }
    assert.same({ "select", "get" }, order)
  end)

  it("cancelled takes nothing", function()
    local queue, event = concur.Queue(), concur.Event()
    local task = concur.spawn(concur.select, { queue:getting(), event:waiting() })
    testing.run_until_idle()
    task:cancel()
    queue:put "item"
    expect.error("FutureCancelled", task.result, task)
    assert.equal(1, queue:size())
  end)

  it("whose arm was committed keeps it when cancelled in the same turn", function()
    local queue = concur.Queue()
    local task = concur.spawn(concur.select, { q = queue:getting() })
    testing.run_until_idle()
    queue:put "item"
    task:cancel()
    assert.same({ "q", "item" }, { task:result() })
  end)

  it("in a loop serves every arm", function()
    local one, two, counts = concur.Queue(), concur.Queue(), { one = 0, two = 0 }
    for i = 1, 50 do
      one:put(i)
      two:put(i)
    end
    for _ = 1, 100 do
      local key = concur.select { one = one:getting(), two = two:getting() }
      counts[key] = counts[key] + 1
    end
    assert.same({ one = 50, two = 50 }, counts)
  end)

  it("many selects on the same queues: each item comes out once", function()
    local queues, seen, total = { concur.Queue(), concur.Queue(), concur.Queue() }, {}, 0
    concur.task_group(function(group)
      for _ = 1, 5 do
        group:spawn(function()
          while true do
            local key, item = concur.select {
              queues[1]:getting(), queues[2]:getting(), queues[3]:getting(),
            }
            if item == nil then
              return
            end
            local name = key .. "/" .. item
            assert.is_nil(seen[name])
            seen[name] = true
            total = total + 1
          end
        end)
      end
      for i = 1, 60 do
        queues[i % 3 + 1]:put(i)
        if i % 7 == 0 then
          concur.checkpoint()
        end
      end
      testing.run_until_idle()
      for _, queue in ipairs(queues) do
        queue:close()
      end
    end)
    assert.equal(60, total)
  end)
end)

describe("misuse of select", function()
  it("an empty table is an error, not a wait for ever", function()
    expect.message("select", concur.select, {})
    concur.checkpoint()
  end)

  it("something that is no arm is an error that names its key", function()
    local queue = concur.Queue()
    expect.message("thing", concur.select, { thing = 42, q = queue:getting() })
    expect.message("thing", concur.select, { thing = print })
    queue:put(1)
    assert.equal(1, queue:size())
  end)

  it("the same arm twice is an argument error", function()
    local arm = concur.Queue():getting()
    expect.message("twice", concur.select, { arm, arm })
  end)

  it("no table is an argument error", function()
    expect.message("table", concur.select)
    expect.message("table", concur.select, concur.Queue():getting())
  end)

  it("putting(nil) is an argument error", function()
    local queue = concur.Queue()
    expect.message("nil", queue.putting, queue, nil)
    expect.message("nil", queue.putting, queue)
  end)

  it("after takes a number of seconds", function()
    expect.message("number", concur.after)
    expect.message("NaN", concur.after, 0 / 0)
  end)
end)
