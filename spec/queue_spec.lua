-- SPDX-License-Identifier: MIT
-- Queue, LifoQueue, PriorityQueue: order, bounds, join, close, and nothing lost under cancellation.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

-- Takes everything that is in the queue now.
local function drain(queue)
  local items = {}
  while true do
    local item = queue:try_get()
    if item == nil then
      return items
    end
    items[#items + 1] = item
  end
end

local function getter(queue)
  return concur.spawn(queue.get, queue)
end

local function putter(queue, item)
  return concur.spawn(queue.put, queue, item)
end

describe("a queue", function()
  it("gives items back in the order they were put", function()
    local queue = concur.Queue()
    for i = 1, 5 do
      queue:put(i)
    end
    assert.equal(5, queue:size())
    for i = 1, 5 do
      assert.equal(i, queue:get())
    end
    assert.equal(0, queue:size())
  end)

  it("keeps its order while it grows, shrinks and wraps around", function()
    local queue, put, got = concur.Queue(), 0, 0
    for round = 1, 50 do
      for _ = 1, round % 7 + 3 do
        put = put + 1
        queue:put(put)
      end
      for _ = 1, round % 5 + 2 do
        local item = queue:try_get()
        if item then
          got = got + 1
          assert.equal(got, item)
        end
      end
    end
    assert.equal(put - got, queue:size())
    for _, item in ipairs(drain(queue)) do
      got = got + 1
      assert.equal(got, item)
    end
    assert.equal(put, got)
  end)

  it("carries any value but nil, false included", function()
    local queue, t = concur.Queue(), {}
    for _, value in ipairs { false, 0, "", t, print, 0.5 } do
      queue:put(value)
      assert.equal(value, queue:get())
    end
  end)

  it("knows whether it is empty or full", function()
    local queue = concur.Queue(2)
    assert.is_true(queue:empty())
    assert.is_false(queue:full())
    queue:put(1)
    assert.is_false(queue:empty())
    assert.is_false(queue:full())
    queue:put(2)
    assert.is_true(queue:full())
    assert.equal(2, queue:maxsize())
    assert.is_false(concur.Queue():full())
  end)

  it("get waits for an item", function()
    local queue = concur.Queue()
    concur.get_event_loop():call_later(2, function()
      queue:try_put("late")
    end)
    local start = concur.now()
    assert.equal("late", queue:get())
    assert.near(2, concur.now() - start, 1e-6)
  end)

  it("put waits for room", function()
    local queue, put = concur.Queue(2), {}
    local task = concur.spawn(function()
      for i = 1, 4 do
        queue:put(i)
        put[#put + 1] = i
      end
    end)
    testing.run_until_idle()
    assert.same({ 1, 2 }, put)
    assert.equal(1, queue:get())
    testing.run_until_idle()
    assert.same({ 1, 2, 3 }, put)
    assert.equal(2, queue:get())
    task:result()
    assert.same({ 3, 4 }, drain(queue))
  end)

  it("put and get that can finish at once do not switch", function()
    local queue, ran = concur.Queue(), false
    local other = concur.spawn(function()
      ran = true
    end)
    queue:put(1)
    queue:get()
    assert.is_false(ran)
    other:result()
  end)

  it("a long loop of both lets others run all the same", function()
    local queue, ran = concur.Queue(), false
    local other = concur.spawn(function()
      ran = true
    end)
    for i = 1, 1000 do
      queue:put(i)
      queue:get()
      if ran then
        break
      end
    end
    assert.is_true(ran)
    other:result()
  end)

  it("serves getters in the order of their arrival", function()
    local queue, tasks = concur.Queue(), {}
    for i = 1, 3 do
      tasks[i] = getter(queue)
    end
    testing.run_until_idle()
    for i = 1, 3 do
      queue:put(i * 10)
    end
    for i = 1, 3 do
      assert.equal(i * 10, tasks[i]:result())
    end
  end)

  it("serves putters in the order of their arrival", function()
    local queue, tasks = concur.Queue(1), {}
    queue:put(0)
    for i = 1, 3 do
      tasks[i] = putter(queue, i)
    end
    testing.run_until_idle()
    local items = {}
    for i = 1, 4 do
      items[i] = queue:get()
    end
    assert.same({ 0, 1, 2, 3 }, items)
    concur.wait(tasks)
  end)

  it("hands an item over directly: a newcomer cannot snatch it", function()
    local queue = concur.Queue()
    local first = getter(queue)
    testing.run_until_idle()
    queue:put("for the first")
    local got, e = queue:try_get()
    assert.is_nil(got)
    assert.equal("WouldBlock", e.kind)
    assert.equal("for the first", first:result())
  end)

  it("try_put and try_get never wait", function()
    local queue = concur.Queue(1)
    local got, e = queue:try_get()
    assert.is_nil(got)
    assert.equal("WouldBlock", e.kind)
    assert.is_true(queue:try_put(1))
    local put, full = queue:try_put(2)
    assert.is_nil(put)
    assert.equal("WouldBlock", full.kind)
    assert.equal(1, queue:try_get())
  end)

  it("try_get makes room for a waiting putter", function()
    local queue = concur.Queue(1)
    queue:put(1)
    local task = putter(queue, 2)
    testing.run_until_idle()
    assert.equal(1, queue:try_get())
    task:result()
    assert.equal(2, queue:get())
  end)

  it("with a size of 0 or none is unbounded", function()
    local queue = concur.Queue(0)
    for i = 1, 100 do
      queue:put(i)
    end
    assert.is_false(queue:full())
    assert.equal(100, queue:size())
  end)

  it("of size 1 carries a thousand items between two tasks", function()
    local queue, sum = concur.Queue(1), 0
    concur.gather(function()
      for i = 1, 1000 do
        queue:put(i)
      end
    end, function()
      for _ = 1, 1000 do
        sum = sum + queue:get()
      end
    end)
    assert.equal(500500, sum)
  end)

  it("iter gives item after item until it is closed", function()
    local queue, items = concur.Queue(), {}
    local task = concur.spawn(function()
      for item in queue:iter() do
        items[#items + 1] = item
      end
      return "ended"
    end)
    queue:put(1)
    queue:put(2)
    testing.run_until_idle()
    queue:put(3)
    queue:close()
    assert.equal("ended", task:result())
    assert.same({ 1, 2, 3 }, items)
  end)

  it("iter gives false like any other item", function()
    local queue, count = concur.Queue(), 0
    queue:put(false)
    queue:put(false)
    queue:close()
    local next_item = queue:iter()
    assert.is_false(next_item())
    assert.is_false(next_item())
    assert.is_nil(next_item())
    assert.equal(0, count)
  end)

  it("shows its state as text", function()
    local queue = concur.Queue(5)
    queue:put(1)
    assert.matches("Queue", tostring(queue))
    assert.matches("1", tostring(queue))
    queue:close()
    assert.matches("closed", tostring(queue))
  end)
end)

describe("a queue under cancellation", function()
  it("a cancelled getter takes nothing: the item goes to the next", function()
    local queue = concur.Queue()
    local one, two = getter(queue), getter(queue)
    testing.run_until_idle()
    one:cancel()
    queue:put("item")
    assert.equal("item", two:result())
    assert.equal("cancelled", one:state())
  end)

  it("an item that was handed over stays with its getter", function()
    local queue = concur.Queue()
    local one = getter(queue)
    testing.run_until_idle()
    queue:put("item")
    one:cancel()
    assert.equal("item", one:result())
    assert.equal(0, queue:size())
  end)

  it("a cancelled putter leaves no item", function()
    local queue = concur.Queue(1)
    queue:put "a"
    local b, x = putter(queue, "b"), putter(queue, "x")
    testing.run_until_idle()
    x:cancel()
    testing.run_until_idle()
    assert.equal("a", queue:get())
    assert.equal("b", queue:get())
    b:result()
    assert.is_true(queue:empty())
    assert.equal("cancelled", x:state())
  end)

  it("a putter whose item was taken has put it, cancelled or not", function()
    local queue = concur.Queue(1)
    queue:put "a"
    local b = putter(queue, "b")
    testing.run_until_idle()
    assert.equal("a", queue:get())
    b:cancel()
    b:result()
    assert.equal("done", b:state())
    assert.same({ "b" }, drain(queue))
  end)

  it("room and the cancellation of the first putter in the same turn: the next one puts", function()
    local queue = concur.Queue(1)
    queue:put "a"
    local b, c = putter(queue, "b"), putter(queue, "c")
    testing.run_until_idle()
    b:cancel()
    assert.equal("a", queue:get())
    c:result()
    assert.equal("cancelled", b:state())
    assert.same({ "c" }, drain(queue))
  end)

  it("in a group that is cancelled while everybody waits, nothing is left behind", function()
    local queue = concur.Queue(1)
    queue:put "kept"
    concur.task_group(function(group)
      for i = 1, 3 do
        group:spawn(queue.put, queue, i)
      end
      testing.run_until_idle()
      group:cancel()
    end)
    assert.same({ "kept" }, drain(queue))
    concur.task_group(function(group)
      for _ = 1, 3 do
        group:spawn(queue.get, queue)
      end
      testing.run_until_idle()
      group:cancel()
    end)
    queue:put "later"
    assert.equal(1, queue:size())
  end)

  it("a timeout on get loses nothing", function()
    local queue, got = concur.Queue(), {}
    local consumer = concur.spawn(function()
      for _ = 1, 20 do
        local finished, item = concur.move_on_after(0.7, queue.get, queue)
        if finished then
          got[#got + 1] = item
        end
      end
    end)
    for i = 1, 10 do
      concur.sleep(1)
      queue:put(i)
    end
    concur.wait { consumer }
    for _, item in ipairs(drain(queue)) do
      got[#got + 1] = item
    end
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, got)
  end)

  it("many getters, half of them cancelled: each item comes out once", function()
    local queue, tasks, got = concur.Queue(), {}, {}
    for i = 1, 20 do
      tasks[i] = getter(queue)
    end
    testing.run_until_idle()
    for i = 1, 20, 2 do
      tasks[i]:cancel()
      queue:put(i)
    end
    concur.wait(tasks)
    for _, task in ipairs(tasks) do
      if task:state() == "done" then
        got[#got + 1] = task:result()
      end
    end
    table.sort(got)
    assert.same({ 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 }, got)
  end)
end)

describe("task_done and join", function()
  it("join returns at once on a queue that never held anything", function()
    local queue = concur.Queue()
    queue:join()
    queue:join()
  end)

  it("join waits until every item was taken and reported done", function()
    local queue, sum = concur.Queue(), 0
    for i = 1, 100 do
      queue:put(i)
    end
    concur.task_group(function(group)
      for _ = 1, 2 do
        group:spawn(function()
          while true do
            sum = sum + queue:get()
            concur.checkpoint()
            queue:task_done()
          end
        end)
      end
      queue:join()
      assert.equal(5050, sum)
      group:cancel()
    end)
  end)

  it("join waits again when more is put", function()
    local queue, joined = concur.Queue(), 0
    queue:put(1)
    local task = concur.spawn(function()
      queue:join()
      joined = joined + 1
    end)
    testing.run_until_idle()
    queue:get()
    assert.equal(0, joined)
    queue:task_done()
    task:result()
    assert.equal(1, joined)
    queue:put(2)
    expect.error("TimeoutError", concur.timeout, 1, queue.join, queue)
    queue:get()
    queue:task_done()
    queue:join()
  end)

  it("task_done too often is an error and changes nothing", function()
    local queue = concur.Queue()
    expect.error("InvalidState", queue.task_done, queue)
    queue:put(1)
    queue:get()
    queue:task_done()
    expect.error("InvalidState", queue.task_done, queue)
    queue:join()
  end)

  it("an item handed over directly counts too", function()
    local queue = concur.Queue()
    local one = getter(queue)
    testing.run_until_idle()
    queue:put(1)
    one:result()
    expect.error("TimeoutError", concur.timeout, 1, queue.join, queue)
    queue:task_done()
    queue:join()
  end)

  it("a cancelled join leaves the count alone", function()
    local queue = concur.Queue()
    queue:put(1)
    assert.is_false(concur.move_on_after(1, queue.join, queue))
    queue:get()
    queue:task_done()
    queue:join()
  end)
end)

describe("a closed queue", function()
  it("gives what it holds, then nil and Closed", function()
    local queue = concur.Queue()
    queue:put(1)
    queue:put(2)
    queue:close()
    assert.equal(1, queue:get())
    assert.equal(2, queue:get())
    for _ = 1, 2 do
      local item, e = queue:get()
      assert.is_nil(item)
      assert.equal("Closed", e.kind)
    end
    local item, e = queue:try_get()
    assert.is_nil(item)
    assert.equal("Closed", e.kind)
  end)

  it("refuses new items", function()
    local queue = concur.Queue()
    queue:close()
    expect.error("Closed", queue.put, queue, 1)
    expect.error("Closed", queue.try_put, queue, 1)
    assert.equal(0, queue:size())
  end)

  it("wakes waiting getters with nil and Closed", function()
    local queue = concur.Queue()
    local one, two = getter(queue), getter(queue)
    testing.run_until_idle()
    queue:close()
    for _, task in ipairs { one, two } do
      local item, e = task:result()
      assert.is_nil(item)
      assert.equal("Closed", e.kind)
    end
  end)

  it("wakes waiting putters with Closed; their items are not in it", function()
    local queue = concur.Queue(1)
    queue:put "in"
    local one = putter(queue, "out")
    testing.run_until_idle()
    queue:close()
    expect.error("Closed", one.result, one)
    assert.same({ "in" }, drain(queue))
  end)

  it("may be closed again", function()
    local queue = concur.Queue()
    queue:close()
    queue:close()
    queue:close { immediate = true }
    assert.is_true(queue:closed())
  end)

  it("with immediate drops what it holds", function()
    local queue = concur.Queue()
    queue:put(1)
    queue:put(2)
    queue:close { immediate = true }
    local item, e = queue:get()
    assert.is_nil(item)
    assert.equal("Closed", e.kind)
    assert.equal(0, queue:size())
  end)

  it("with immediate: join waits only for items that were taken", function()
    local queue = concur.Queue()
    queue:put(1)
    queue:put(2)
    queue:get()
    local joined = false
    local task = concur.spawn(function()
      queue:join()
      joined = true
    end)
    testing.run_until_idle()
    queue:close { immediate = true }
    testing.run_until_idle()
    assert.is_false(joined)
    queue:task_done()
    task:result()
  end)

  it("with immediate and nothing taken: join is over at once", function()
    local queue = concur.Queue()
    queue:put(1)
    local task = concur.spawn(queue.join, queue)
    testing.run_until_idle()
    queue:close { immediate = true }
    task:result()
  end)

  it("without immediate: join still waits for what is left", function()
    local queue = concur.Queue()
    queue:put(1)
    queue:close()
    expect.error("TimeoutError", concur.timeout, 1, queue.join, queue)
    queue:get()
    queue:task_done()
    queue:join()
  end)

  it("closed first, immediately later: what it holds is dropped, join is over", function()
    local queue = concur.Queue()
    queue:put(1)
    queue:put(2)
    queue:close()
    queue:close { immediate = true }
    assert.equal(0, queue:size())
    queue:join()
  end)

  it("lets putters fail in order when there are several", function()
    local queue, order = concur.Queue(1), {}
    queue:put(0)
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = concur.spawn(function()
        local e = expect.error("Closed", queue.put, queue, i)
        order[#order + 1] = { i, e.kind }
      end)
    end
    testing.run_until_idle()
    queue:close()
    concur.wait(tasks)
    assert.same({ { 1, "Closed" }, { 2, "Closed" }, { 3, "Closed" } }, order)
    assert.same({ 0 }, drain(queue))
  end)

  it("is closed by <close>", function()
    local queue = concur.Queue()
    do
      local _ <close> = queue
    end
    assert.is_true(queue:closed())
  end)

  it("is left by a for loop", function()
    local queue, count = concur.Queue(), 0
    queue:close()
    for _ in queue:iter() do
      count = count + 1
    end
    assert.equal(0, count)
  end)
end)

describe("LifoQueue", function()
  it("gives the last item first", function()
    local queue = concur.LifoQueue()
    for _, item in ipairs { 1, 3, 2 } do
      queue:put(item)
    end
    assert.same({ 2, 3, 1 }, drain(queue))
  end)

  it("has bounds, close and join like Queue", function()
    local queue = concur.LifoQueue(1)
    queue:put(1)
    local task = putter(queue, 2)
    testing.run_until_idle()
    assert.equal(1, queue:get())
    task:result()
    assert.equal(2, queue:get())
    queue:task_done()
    queue:task_done()
    queue:join()
    queue:close()
    local item, e = queue:get()
    assert.is_nil(item)
    assert.equal("Closed", e.kind)
    assert.matches("LifoQueue", tostring(queue))
  end)
end)

describe("close with immediate", function()
  it("lets go of the items that it throws away", function()
    for _, size in ipairs { 3, 0, 1000 } do
      local queue = concur.Queue(size)
      local held = setmetatable({}, { __mode = "v" })
      for i = 1, 3 do
        held[i] = { i }
        queue:put(held[i])
      end
      queue:close { immediate = true }
      collectgarbage()
      assert.same({}, held)
      assert.equal(0, queue:size())
    end
  end)
end)

describe("PriorityQueue", function()
  it("takes a function that says which of two items comes first", function()
    local queue = concur.PriorityQueue(0, function(a, b)
      return #a > #b
    end)
    for _, word in ipairs { "aa", "b", "cccc", "dd", "e", "fff" } do
      queue:put(word)
    end
    assert.same({ "cccc", "fff", "aa", "dd", "b", "e" }, drain(queue))
  end)

  it("fails the putter whose item cannot be compared, and lets the next one in", function()
    local queue = concur.PriorityQueue(2)
    queue:put(1)
    queue:put(2)
    local wrong, right = putter(queue, {}), putter(queue, 3)
    testing.run_until_idle()
    assert.equal(1, queue:get())
    expect.message("attempt to compare", wrong.result, wrong)
    right:result()
    assert.same({ 2, 3 }, drain(queue))
  end)

  it("gives the smallest item first", function()
    local queue = concur.PriorityQueue()
    for _, item in ipairs { 5, 1, 4, 2, 3, 1 } do
      queue:put(item)
    end
    assert.same({ 1, 1, 2, 3, 4, 5 }, drain(queue))
  end)

  it("compares strings, and tables with __lt", function()
    local queue = concur.PriorityQueue()
    for _, item in ipairs { "pear", "apple", "fig" } do
      queue:put(item)
    end
    assert.same({ "apple", "fig", "pear" }, drain(queue))
    local class = {}
    class.__lt = function(a, b)
      return a.rank < b.rank
    end
    local items = {}
    for _, rank in ipairs { 3, 1, 2 } do
      queue:put(setmetatable({ rank = rank }, class))
    end
    for i, item in ipairs(drain(queue)) do
      items[i] = item.rank
    end
    assert.same({ 1, 2, 3 }, items)
  end)

  it("gives equal items in the order they were put", function()
    local queue = concur.PriorityQueue()
    local class = {}
    class.__lt = function(a, b)
      return a.rank < b.rank
    end
    for i = 1, 20 do
      queue:put(setmetatable({ rank = i % 2, i = i }, class))
    end
    local order = {}
    for i, item in ipairs(drain(queue)) do
      order[i] = item.i
    end
    assert.same({ 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 }, order)
  end)

  it("sorts many random numbers", function()
    local queue, items = concur.PriorityQueue(), {}
    for i = 1, 500 do
      items[i] = math.random(1, 1000)
      queue:put(items[i])
    end
    table.sort(items)
    assert.same(items, drain(queue))
  end)

  it("takes the smallest of those waiting to be put when there is room", function()
    local queue = concur.PriorityQueue(2)
    queue:put(5)
    queue:put(9)
    local task = putter(queue, 1)
    testing.run_until_idle()
    assert.equal(5, queue:get())
    task:result()
    assert.equal(1, queue:get())
    assert.equal(9, queue:get())
  end)

  it("items that cannot be compared are an error of put, and the queue stays whole", function()
    local queue = concur.PriorityQueue()
    queue:put(2)
    queue:put(1)
    expect.message("compare", queue.put, queue, "text")
    expect.message("compare", queue.put, queue, {})
    assert.equal(2, queue:size())
    assert.same({ 1, 2 }, drain(queue))
  end)

  it("a comparison that raises or waits leaves the queue whole", function()
    local queue = concur.PriorityQueue()
    local class = {}
    class.__lt = function()
      error("no order", 0)
    end
    local one = setmetatable({}, class)
    queue:put(one)
    expect.same_error("no order", queue.put, queue, setmetatable({}, class))
    class.__lt = function()
      concur.sleep(1)
    end
    assert.is_false((pcall(queue.put, queue, setmetatable({}, class))))
    assert.equal(1, queue:size())
    assert.equal(one, queue:get())
    concur.checkpoint()
  end)

  it("a comparison that uses the queue itself cannot break it", function()
    local queue = concur.PriorityQueue()
    local class = {}
    class.__lt = function(a, b)
      if queue:size() > 0 and not class.busy then
        class.busy = true
        pcall(queue.try_get, queue)
        pcall(queue.try_put, queue, a)
        class.busy = false
      end
      return a.rank < b.rank
    end
    for rank = 10, 1, -1 do
      pcall(queue.put, queue, setmetatable({ rank = rank }, class))
    end
    while queue:size() > 0 do
      local size = queue:size()
      if pcall(queue.try_get, queue) then
        assert.is_true(queue:size() <= size)
      else
        break
      end
    end
  end)
end)

describe("misuse of a queue", function()
  for _, name in ipairs { "Queue", "LifoQueue", "PriorityQueue" } do
    it("put(nil) to a " .. name .. " is an argument error and changes nothing", function()
      local queue = concur[name]()
      expect.message("nil", queue.put, queue, nil)
      expect.message("nil", queue.put, queue)
      expect.message("nil", queue.try_put, queue, nil)
      assert.equal(0, queue:size())
      queue:put(1)
      assert.equal(1, queue:get())
    end)

    it("bad sizes of a " .. name .. " are argument errors", function()
      expect.message("argument", concur[name], -1)
      expect.message("argument", concur[name], 1.5)
      expect.message("number", concur[name], "big")
    end)
  end

  it("unknown options of close are errors", function()
    local queue = concur.Queue()
    expect.message("unknown", queue.close, queue, { imediate = true })
    assert.is_false(queue:closed())
  end)

  it("calling with a dot is an argument error", function()
    expect.message("Queue", concur.Queue().get)
    expect.message("Queue", concur.Queue().put, {}, 1)
  end)
end)
