-- SPDX-License-Identifier: MIT
-- Bad input and waiting in the wrong place: a clear error each time, and the program goes on.

local concur = require "concur"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

-- The message of a refused wait must say what to do instead.
local function assert_refused(e)
  assert.is_true(concur.errors.is(e, "InvalidState"), tostring(e))
  assert.is_true(#e.message > 30, e.message)
end

describe("a wrong argument", function()
  -- What is called, with which arguments, and what the message must contain.
  local cases = {
    { "run", 1, "#1", "number" },
    { "run", nil, "#1" },
    { "spawn", 42, "#1", "number" },
    { "spawn", "text", "#1", "string" },
    { "spawn", {}, "#1", "table" },
    { "spawn", nil, "#1" },
    { "async", 42, "#1", "number" },
    { "async", nil, "#1" },
    { "await", 42, "#1", "number" },
    { "sleep", "soon", "#1", "string" },
    { "sleep", nil, "#1" },
    { "sleep", 0 / 0, "#1", "NaN" },
    { "gather", 42, "#1", "number" },
    { "settle", 42, "#1", "number" },
    { "race", 42, "#1", "number" },
    { "any", 42, "#1", "number" },
    { "wait", 42, "#1", "number" },
    { "as_completed", 42, "#1", "number" },
    { "suspend", 42, "#1", "number" },
    { "Runner", 42, "#1", "number" },
  }
  for _, case in ipairs(cases) do
    local name, value, first, second = case[1], case[2], case[3], case[4]
    it(("of %s (%s) is named"):format(name, tostring(value)), function()
      local function check()
        local e = tostring(failure(concur[name], value))
        assert.matches(first, e, 1, true)
        if second then
          assert.matches(second, e, 1, true)
        end
      end
      check()
      if name ~= "run" then
        virtual.run(check)
      end
    end)
  end

  it("is found before anything is started", function()
    local e = failure(concur.spawn)
    assert.matches("#1", tostring(e))
    assert.same({}, concur.all_tasks())
  end)

  it("of a method is named", function()
    virtual.run(function()
      local future = concur.Future()
      local loop = concur.get_event_loop()
      assert.matches("NaN", tostring(failure(future.result, future, 0 / 0)))
      failure(future.result, future, "soon")
      failure(future.add_done_callback, future, 42)
      failure(future.add_done_callback, future)
      failure(concur.current_task().set_name, concur.current_task(), {})
      failure(concur.current_task().set_name, concur.current_task())
      failure(loop.call_soon, loop, 42)
      failure(loop.call_soon, loop)
      failure(loop.call_later, loop, 1)
      failure(loop.call_later, loop, "soon", print)
      assert.matches("NaN", tostring(failure(loop.call_later, loop, 0 / 0, print)))
      assert.matches("NaN", tostring(failure(loop.call_at, loop, 0 / 0, print)))
      failure(loop.call_at, loop, 1)
    end)
  end)

  it("that is no future at all is refused by its methods", function()
    local future = concur.Future()
    for _, method in ipairs { "result", "state", "done", "cancelled", "exception", "cancel",
      "set_result", "set_exception", "add_done_callback" } do
      for _, value in ipairs { 42, {}, io.stdout } do
        failure(future[method], value)
      end
      failure(future[method])
    end
  end)

  it("that is a future, not a task, is refused by the methods of tasks", function()
    local task = concur.spawn(print)
    task:cancel()
    local future = concur.Future()
    for _, method in ipairs { "name", "set_name", "traceback", "awaiting", "kill" } do
      assert.is_nil(future[method])
      failure(task[method], future, "x")
    end
    concur.get_event_loop():close()
  end)

  it("a task cannot be settled by hand", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep, 1, "its own")
      local set_result, set_exception = concur.Future().set_result, concur.Future().set_exception
      pcall(set_result, task, "forged")
      pcall(set_exception, task, "forged")
      assert.equal("its own", task:result())
    end)
  end)

  it("a metatable of the library cannot be changed by a script", function()
    for _, object in ipairs { concur.Future(), concur.spawn(function() end) } do
      assert.not_equal("table", type(getmetatable(object)))
      failure(setmetatable, object, {})
    end
    concur.sleep(0)
  end)
end)

describe("waiting in the wrong place while the loop runs", function()
  -- Each runs in a task with `wait`, a function that waits, and returns what `wait` raised.
  local places = {
    ["a sort comparator"] = function(wait)
      local e
      table.sort({ 2, 1 }, function(a, b)
        e = failure(wait)
        return a < b
      end)
      return e
    end,
    ["a gsub callback"] = function(wait)
      local e
      string.gsub("x", "x", function()
        e = failure(wait)
      end)
      return e
    end,
    ["a __tostring"] = function(wait)
      local e
      local _ = tostring(setmetatable({}, {
        __tostring = function()
          e = failure(wait)
          return "text"
        end,
      }))
      return e
    end,
    ["a foreign coroutine"] = function(wait)
      local e
      coroutine.wrap(function()
        e = failure(wait)
      end)()
      return e
    end,
    ["a message handler"] = function(wait)
      local e
      xpcall(error, function()
        e = failure(wait)
      end)
      return e
    end,
    ["a hook"] = function(wait)
      local e
      debug.sethook(function()
        debug.sethook()
        e = failure(wait)
      end, "", 1)
      local x = 0
      for i = 1, 10 do
        x = x + i
      end
      debug.sethook()
      return e
    end,
    ["a module being required"] = function(wait)
      local e
      package.preload["spec.waits"] = function()
        e = failure(wait)
        return true
      end
      require "spec.waits"
      package.loaded["spec.waits"], package.preload["spec.waits"] = nil, nil
      return e
    end,
    ["a reader of load"] = function(wait)
      local e
      load(function()
        e = e or failure(wait)
        return nil
      end)
      return e
    end,
  }

  for name, place in pairs(places) do
    it("(" .. name .. ") is refused with advice, and the task goes on", function()
      virtual.run(function()
        local future = concur.Future()
        assert_refused(place(function()
          concur.sleep(1)
        end))
        assert_refused(place(function()
          future:result()
        end))
        assert_refused(place(function()
          concur.gather(print)
        end))
        assert.equal("alive", concur.sleep(1, "alive"))
      end)
    end)
  end

  it("(a callback of the loop) is refused with advice", function()
    virtual.run(function()
      local loop, log = concur.get_event_loop(), {}
      loop:call_soon(function()
        log[1] = failure(concur.sleep, 1)
      end)
      loop:call_later(1, function()
        log[2] = failure(concur.gather, print)
      end)
      local future = concur.Future()
      future:add_done_callback(function()
        log[3] = failure(concur.await, concur.Future())
      end)
      future:set_result()
      concur.sleep(2)
      for i = 1, 3 do
        assert_refused(log[i])
      end
    end)
  end)

  it("(a coroutine in a callback of the loop) is refused with advice", function()
    virtual.run(function()
      local e
      concur.get_event_loop():call_soon(coroutine.wrap(function()
        e = failure(concur.sleep, 1)
      end))
      concur.sleep(1)
      assert_refused(e)
    end)
  end)

  it("(on_error) is refused with advice", function()
    local e
    local runner <close> = concur.Runner {
      clock = concur.testing.Clock(),
      on_error = function()
        e = failure(concur.sleep, 1)
      end,
    }
    runner:run(function()
      concur.get_event_loop():call_soon(error, "x")
      concur.sleep(1)
    end)
    assert_refused(e)
  end)

  it("(a callback during a step) is refused with advice", function()
    local e
    concur.get_event_loop():call_soon(function()
      e = failure(concur.sleep, 1)
    end)
    concur.get_event_loop():step(0)
    assert_refused(e)
  end)

  it("(a callback during a wait at top level) is refused with advice", function()
    local e
    concur.get_event_loop():call_soon(function()
      e = failure(concur.sleep, 1)
    end)
    concur.sleep(0.001)
    assert_refused(e)
  end)

  it("(a foreign coroutine) points to concur.wrap", function()
    virtual.run(function()
      local e
      coroutine.wrap(function()
        e = failure(concur.sleep, 1)
      end)()
      assert.matches("concur.wrap", e.message, 1, true)
    end)
  end)

  it("(the __close of a foreign coroutine) is refused, and closing works", function()
    virtual.run(function()
      local e
      local co = coroutine.create(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            e = failure(concur.sleep, 1)
          end,
        })
        coroutine.yield()
      end)
      coroutine.resume(co)
      assert.is_true(coroutine.close(co))
      assert_refused(e)
    end)
  end)

  it("does not hurt: getters and things that never wait work everywhere", function()
    virtual.run(function()
      local settled = concur.Future()
      settled:set_result("value")
      local log = {}
      table.sort({ 2, 1 }, function(a, b)
        log[1] = settled:result()
        log[2] = concur.spawn(concur.sleep, 1):state()
        concur.Future():set_result()
        concur.now()
        return a < b
      end)
      assert.same({ "value", "pending" }, log)
    end)
  end)
end)

describe("waits that work although they look odd", function()
  it("inside pcall, xpcall's body, an iterator, metamethods and __close", function()
    virtual.run(function()
      local log = {}
      local function wait(x)
        return concur.sleep(1, x)
      end
      log[#log + 1] = select(2, pcall(wait, "pcall"))
      log[#log + 1] = select(2, xpcall(wait, print, "xpcall"))
      for value in function(_, previous)
        return not previous and wait "iterator" or nil
      end do
        log[#log + 1] = value
      end
      local object = setmetatable({}, {
        __index = function(_, key)
          return wait(key)
        end,
        __call = function(_, x)
          return wait(x)
        end,
        __add = function()
          return wait "add"
        end,
        __concat = function()
          return wait "concat"
        end,
        __lt = function()
          return wait(true)
        end,
        __close = function()
          log[#log + 1] = wait "close"
        end,
      })
      log[#log + 1] = object.index
      log[#log + 1] = object "call"
      log[#log + 1] = object + 1
      log[#log + 1] = object .. "x"
      log[#log + 1] = tostring(object < object)
      do
        local _ <close> = object
      end
      assert.same({ "pcall", "xpcall", "iterator", "index", "call", "add", "concat", "true",
        "close" }, log)
    end)
  end)

  it("inside nested pcalls a hundred deep", function()
    virtual.run(function()
      local function nest(n)
        if n == 0 then
          return concur.sleep(1, "bottom")
        end
        local ok, value = pcall(nest, n - 1)
        assert(ok, value)
        return value
      end
      assert.equal("bottom", nest(100))
    end)
  end)

  it("in an xpcall whose handler sees the first error", function()
    virtual.run(function()
      local seen
      local ok, result = xpcall(function()
        concur.sleep(1)
        error("x", 0)
      end, function(e)
        seen = e
        return "handled " .. e
      end)
      assert.same({ false, "handled x", "x" }, { ok, result, seen })
    end)
  end)
end)

describe("use after close", function()
  it("of a runner is refused", function()
    local runner = concur.Runner {}
    runner:close()
    failure(runner.run, runner, print)
  end)

  it("of a timer's handle does nothing", function()
    virtual.run(function()
      local handle = concur.get_event_loop():call_later(1, function() end)
      concur.sleep(2)
      handle:cancel()
      handle:cancel()
    end)
  end)

  it("of a task from a loop that was closed gives an answer", function()
    local task = concur.spawn(concur.sleep_forever)
    concur.sleep(0)
    concur.get_event_loop():close()
    assert.is_true(task:done())
    assert.is_false(task:cancel())
    failure(task.result, task)
    assert.matches("Task", tostring(task))
  end)

  it("of a future from a loop that was closed goes on in the next loop", function()
    local future = concur.Future()
    concur.spawn(future.result, future)
    concur.sleep(0)
    concur.get_event_loop():close()
    assert.is_true(future:set_result("x"))
    assert.equal("x", concur.run(function()
      return future:result()
    end))
  end)
end)

describe("a nested run", function()
  it("is refused everywhere while the loop runs", function()
    virtual.run(function()
      failure_of_kind("InvalidState", concur.run, print)
      failure_of_kind("InvalidState", function()
        coroutine.wrap(concur.run)(print)
      end)
      local loop = concur.get_event_loop()
      failure_of_kind("InvalidState", loop.run_until_complete, loop, concur.Future())
      failure_of_kind("InvalidState", loop.run_forever, loop)
      failure_of_kind("InvalidState", loop.step, loop, 0)
      failure_of_kind("InvalidState", loop.close, loop)
    end)
  end)

  it("in a task that the script's own wait drives is refused, too", function()
    local task = concur.spawn(function()
      failure_of_kind("InvalidState", concur.run, print)
      return "fine"
    end)
    assert.equal("fine", task:result())
  end)
end)
