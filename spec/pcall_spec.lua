-- SPDX-License-Identifier: MIT
-- concur.pcall and concur.xpcall: Lua's, but Cancelled passes through.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

describe("concur.pcall", function()
  it("returns true and all results", function()
    assert.same({ true, 1, nil, 3, n = 4 }, table.pack(concur.pcall(function(...)
      concur.sleep(1)
      return ...
    end, 1, nil, 3)))
    assert.same({ true, n = 1 }, table.pack(concur.pcall(function() end)))
  end)

  it("returns false and the error, whatever it is", function()
    for _, value in ipairs { "text", 42, false, {} } do
      assert.same({ false, value }, { concur.pcall(error, value, 0) })
    end
    assert.same({ false, nil, n = 2 }, table.pack(concur.pcall(error, nil)))
  end)

  it("lets Cancelled pass", function()
    local after = false
    assert.is_false(concur.cancel_scope(function(scope)
      scope:cancel()
      concur.pcall(concur.sleep, 1)
      after = true
    end))
    assert.is_false(after)
  end)

  it("lets the Cancelled of a timeout pass, which becomes its TimeoutError", function()
    expect.error("TimeoutError", concur.timeout, 1, concur.pcall, concur.sleep, 5)
  end)

  it("catches TimeoutError, FutureCancelled and groups", function()
    local ok, e = concur.pcall(concur.timeout, 1, concur.sleep, 5)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    local task = concur.spawn(concur.sleep, 5)
    task:cancel()
    ok, e = concur.pcall(task.result, task)
    assert.is_false(ok)
    assert.equal("FutureCancelled", e.kind)
    ok, e = concur.pcall(concur.task_group, function(group)
      group:spawn(error, "x", 0)
    end)
    assert.is_false(ok)
    assert.equal("ErrorGroup", e.kind)
  end)

  it("cannot make a loop that refuses to be cancelled", function()
    local rounds = 0
    local task = concur.spawn(function()
      while true do
        concur.pcall(concur.sleep, 1)
        rounds = rounds + 1
      end
    end)
    concur.sleep(3.5)
    task:cancel()
    expect.error("FutureCancelled", task.result, task)
    assert.equal(3, rounds)
  end)

  it("runs <close> variables of what it calls", function()
    local guard = expect.guard(function()
      concur.sleep(1)
    end)
    concur.pcall(function()
      local _ <close> = guard
      error "boom"
    end)
    assert.equal(1, guard.closed)
  end)

  it("reports a thing that cannot be called as Lua's pcall does", function()
    local ok, e = concur.pcall(42)
    assert.is_false(ok)
    assert.matches("call", tostring(e))
    expect.message("argument", concur.pcall)
  end)
end)

describe("concur.xpcall", function()
  it("calls the handler where the error was raised, and returns what it returns", function()
    local ok, e = concur.xpcall(function(x)
      concur.sleep(1)
      error("boom" .. x, 0)
    end, function(e)
      return e .. " handled " .. (debug.traceback():find("pcall_spec", 1, true) and "here" or "")
    end, "!")
    assert.is_false(ok)
    assert.equal("boom! handled here", e)
  end)

  it("returns true and all results", function()
    assert.same({ true, 1, nil, n = 3 }, table.pack(concur.xpcall(function(...)
      return ...
    end, debug.traceback, 1, nil)))
  end)

  it("lets Cancelled pass without calling the handler", function()
    local called = false
    assert.is_false(concur.cancel_scope(function(scope)
      scope:cancel()
      concur.xpcall(concur.sleep, function()
        called = true
      end, 1)
    end))
    assert.is_false(called)
  end)

  it("needs a function as handler", function()
    expect.message("argument", concur.xpcall, print)
  end)
end)
