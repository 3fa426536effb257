-- SPDX-License-Identifier: MIT
-- concur.wrap: generators whose body may suspend the task that consumes them.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

local function count_to(n, pause)
  return concur.wrap(function()
    for i = 1, n do
      if pause then
        concur.sleep(pause)
      end
      coroutine.yield(i)
    end
  end)
end

describe("a generator", function()
  it("works in a for loop", function()
    local seen = {}
    for i in count_to(3) do
      seen[#seen + 1] = i
    end
    assert.same({ 1, 2, 3 }, seen)
  end)

  it("passes values both ways, as coroutine.wrap does", function()
    local step = concur.wrap(function(a, b)
      local c, d = coroutine.yield(a + b, nil)
      local e = coroutine.yield(c .. d)
      return "end", e
    end)
    assert.same({ 3, nil, n = 2 }, table.pack(step(1, 2)))
    assert.equal("xy", step("x", "y"))
    assert.same({ "end", "last" }, { step("last") })
  end)

  it("may suspend the surrounding task between its values", function()
    local start = concur.now()
    local seen = {}
    for i in count_to(3, 2) do
      seen[#seen + 1] = { i, concur.now() - start }
    end
    assert.near(2, seen[1][2], 1e-6)
    assert.near(4, seen[2][2], 1e-6)
    assert.near(6, seen[3][2], 1e-6)
    assert.equal(3, #seen)
  end)

  it("lets other tasks run while its body waits", function()
    local ticks = 0
    local ticker = concur.spawn(function()
      for _ = 1, 10 do
        concur.sleep(0.1)
        ticks = ticks + 1
      end
    end)
    for _ in count_to(2, 1) do -- luacheck: ignore
    end
    assert.equal(10, ticks)
    ticker:result()
  end)

  it("runs in the consumer's task, scopes and context", function()
    local var = concur.ContextVar("default")
    var:set("consumer")
    local seen = {}
    local step = concur.wrap(function()
      seen.task = concur.current_task()
      seen.var = var:get()
      coroutine.yield()
    end)
    step()
    assert.equal(concur.current_task(), seen.task)
    assert.equal("consumer", seen.var)
    step:close()
  end)

  it("is cancelled with the task: Cancelled is raised inside its body", function()
    local guard = expect.guard()
    assert.is_false(concur.move_on_after(1, function()
      for _ in concur.wrap(function()
        local _ <close> = guard
        coroutine.yield(1)
        concur.sleep(10)
      end) do -- luacheck: ignore
      end
    end))
    assert.equal(1, guard.closed)
    assert.equal("Cancelled", guard.error.kind)
  end)

  it("raises the error of its body, with the traceback of both sides", function()
    local step = concur.wrap(function()
      coroutine.yield(1)
      error "inside"
    end)
    step()
    expect.message("inside", step)
    expect.error("InvalidState", step)
  end)

  it("keeps the identity of the error", function()
    local own = {}
    expect.same_error(own, concur.wrap(function()
      concur.sleep(1)
      error(own)
    end))
  end)

  it("that is over says so when it is called again", function()
    local step = concur.wrap(function() end)
    step()
    expect.error("InvalidState", step)
  end)

  it("close runs its <close> variables, once", function()
    local guard = expect.guard()
    local step = concur.wrap(function()
      local _ <close> = guard
      coroutine.yield(1)
    end)
    step()
    step:close()
    step:close()
    assert.equal(1, guard.closed)
    expect.error("InvalidState", step)
  end)

  it("closes by <close>, and as the fourth value of a for loop", function()
    local guard = expect.guard()
    local function make()
      return concur.wrap(function()
        local _ <close> = guard
        coroutine.yield(1)
        coroutine.yield(2)
      end)
    end
    do
      local step <close> = make()
      step()
    end
    assert.equal(1, guard.closed)
    local step = make()
    for _ in step, nil, nil, step do -- luacheck: ignore (left at once, on purpose)
      break
    end
    assert.equal(2, guard.closed)
  end)

  it("a <close> variable of its body may wait while it is closed", function()
    local start = concur.now()
    do
      local step <close> = concur.wrap(function()
        local _ <close> = expect.guard(function()
          concur.sleep(2)
        end)
        coroutine.yield(1)
      end)
      step()
    end
    assert.near(2, concur.now() - start, 1e-6)
  end)

  it("close before the first value runs nothing", function()
    local ran = false
    local step = concur.wrap(function()
      ran = true
    end)
    step:close()
    assert.is_false(ran)
  end)

  it("close raises an error of the clean-up", function()
    local step = concur.wrap(function()
      local _ <close> = expect.guard(function()
        error("clean-up", 0)
      end)
      coroutine.yield(1)
    end)
    step()
    expect.same_error("clean-up", step.close, step)
  end)

  it("nests: a generator may consume another, and both may wait", function()
    local outer = concur.wrap(function()
      for i in count_to(3, 1) do
        concur.sleep(1)
        coroutine.yield(i * 10)
      end
    end)
    local start = concur.now()
    local seen = {}
    for i in outer do
      seen[#seen + 1] = i
    end
    assert.same({ 10, 20, 30 }, seen)
    assert.near(6, concur.now() - start, 1e-6)
  end)

  it("may use scopes that it closes before it yields", function()
    local step = concur.wrap(function()
      for _ = 1, 3 do
        coroutine.yield((concur.move_on_after(1, concur.sleep, 5)))
      end
    end)
    for _ = 1, 3 do
      assert.is_false(step())
    end
    step:close()
  end)

  it("may run a task group that ends before it yields", function()
    local step = concur.wrap(function()
      local one
      concur.task_group(function(group)
        one = group:spawn(concur.sleep, 1, "child")
      end)
      coroutine.yield(one:result())
    end)
    assert.equal("child", step())
    step:close()
  end)

  it("can be handed from task to task between two values", function()
    local step = count_to(2)
    assert.equal(1, step())
    assert.equal(2, concur.spawn(step):result())
    step:close()
  end)

  it("that nobody finishes is collected", function()
    local weak = setmetatable({}, { __mode = "v" })
    do
      local step = count_to(2)
      step()
      weak[1] = step
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
  end)

  it("that a killed or cancelled task was in closes its variables", function()
    local guard = expect.guard()
    local task = concur.spawn(function()
      for _ in concur.wrap(function()
        local _ <close> = guard
        coroutine.yield(1)
        concur.sleep_forever()
      end) do -- luacheck: ignore
      end
    end)
    testing.run_until_idle()
    task:cancel()
    concur.wait { task }
    assert.equal(1, guard.closed)
  end)

  it("shows its state as text", function()
    local step = count_to(1)
    assert.matches("Generator", tostring(step))
    step:close()
    assert.matches("Generator", tostring(step))
  end)
end)

describe("misuse of a generator", function()
  it("to yield while a scope that it opened is active is an error", function()
    local step = concur.wrap(function()
      concur.cancel_scope(function()
        coroutine.yield(1)
      end)
    end)
    local ok, e = pcall(step)
    assert.is_false(ok)
    assert.matches("scope", tostring(e))
    assert.equal(math.huge, concur.effective_deadline())
    concur.checkpoint()
  end)

  it("to yield there again and again, whatever is raised, ends it", function()
    local closed = 0
    local step = concur.wrap(function()
      local _ <close> = expect.guard(function() closed = closed + 1 end)
      concur.cancel_scope(function()
        while true do
          pcall(coroutine.yield, 1)
        end
      end)
    end)
    expect.error("InvalidState", step)
    assert.equal(1, closed)
    expect.error("InvalidState", step)
    concur.sleep(1) -- no scope was left open
    assert.equal(math.huge, concur.effective_deadline())
  end)

  it("takes no more values than a stack can hold", function()
    local step = concur.wrap(function(...) -- luacheck: ignore
      coroutine.yield()
      return "goes on"
    end)
    step(table.unpack({}, 1, 600000))
    local ok, e = pcall(step, table.unpack({}, 1, 600000))
    assert.is_false(ok)
    assert.equal("not enough memory", e)
    assert.equal("goes on", step())
  end)

  it("calling it from inside itself is an error", function()
    local step
    step = concur.wrap(function()
      return pcall(step)
    end)
    local ok = step()
    assert.is_false(ok)
  end)

  it("calling it while another task waits inside it is an error", function()
    local step = concur.wrap(function()
      concur.sleep(5)
      coroutine.yield(1)
    end)
    local task = concur.spawn(step)
    concur.sleep(1)
    expect.error("InvalidState", step)
    assert.equal(1, task:result())
    step:close()
  end)

  it("closing it while another task waits inside it is an error", function()
    local step = concur.wrap(function()
      concur.sleep(5)
      coroutine.yield("alive")
    end)
    local task = concur.spawn(step)
    concur.sleep(1)
    expect.error("InvalidState", step.close, step)
    assert.equal("alive", task:result())
    step:close()
  end)

  it("closing it from inside itself is an error", function()
    local step
    step = concur.wrap(function()
      expect.error("InvalidState", step.close, step)
      return "went on"
    end)
    assert.equal("went on", step())
  end)

  it("something that is no function is an argument error", function()
    expect.message("function", concur.wrap)
    expect.message("function", concur.wrap, 42)
  end)

  it("in a plain coroutine inside the body waiting is an error, the generator goes on", function()
    local step = concur.wrap(function()
      local co = coroutine.wrap(function()
        return pcall(concur.sleep, 1)
      end)
      coroutine.yield((co()))
    end)
    assert.is_false(step())
    step:close()
  end)
end)
