-- SPDX-License-Identifier: MIT

local concur = require "concur"
local errors = require "concur.errors"
local support = require "spec.support"

local function group(list, fields)
  fields = fields or {}
  fields.errors, fields.n = list, list.n or #list
  return errors.new("ErrorGroup", fields.message, fields)
end

-- An object that is as unfriendly as Lua allows.
local function hostile()
  local function refuse()
    error("hands off")
  end
  return setmetatable({}, {
    __index = refuse,
    __newindex = refuse,
    __eq = refuse,
    __tostring = refuse,
    __concat = refuse,
    __len = refuse,
    __pairs = refuse,
    __name = "Hostile",
  })
end

local function lines(text)
  local list = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do
    list[#list + 1] = line
  end
  return list
end

local TRACEBACK = table.concat({
  "stack traceback:",
  "\t[C]: in function 'error'",
  "\tmain.lua:3: in local 'fetch'",
  "\t[C]: in function <0x55d0>",
  "\tmain.lua:9: in main chunk",
  "\t[C]: in ?",
}, "\n")

describe("errors.new", function()
  it("makes a plain table with kind, message and fields", function()
    local cause = { "why" }
    local fields = { cause = cause, call = "open" }
    local e = errors.new("OSError", "no such file", fields)
    assert.equal("OSError", e.kind)
    assert.equal("no such file", e.message)
    assert.equal(cause, e.cause)
    assert.equal("open", e.call)
    assert.same({ cause = cause, call = "open" }, fields)
  end)

  it("does not let fields replace kind and message", function()
    local e = errors.new("Closed", "shut", { kind = "Other", message = "other" })
    assert.equal("Closed", e.kind)
    assert.equal("shut", e.message)
  end)

  it("completes an ErrorGroup", function()
    local e = errors.new("ErrorGroup", nil, { errors = { "a", "b" } })
    assert.equal(2, e.n)
    assert.same({}, e.tracebacks)
    assert.same({}, e.tasks)
  end)

  it("refuses unknown kinds, with a suggestion", function()
    assert.has_error(function()
      errors.new("Timeout", "late")
    end, "errors.new: unknown error kind 'Timeout' (did you mean 'TimeoutError'?)")
    assert.has_error(function()
      errors.new(nil, "late")
    end, "errors.new: unknown error kind a nil")
  end)

  it("names the wrong argument", function()
    assert.has_error(function()
      errors.new("Closed", 5)
    end, "bad argument #2 to 'new' (string expected, got number)")
    assert.has_error(function()
      errors.new("Closed", "shut", "x")
    end, "bad argument #3 to 'new' (table expected, got string)")
    assert.has_error(function()
      errors.new("ErrorGroup", "no list")
    end, "errors.new: an ErrorGroup needs the field 'errors', a list")
  end)

  it("reports misuse at the caller's line", function()
    local ok, message = pcall(function()
      local e = errors.new("Nope")
      return e
    end)
    assert.is_false(ok)
    assert.matches("errors_spec.lua:%d+: errors.new", message)
  end)
end)

describe("errors.is", function()
  it("is safe on any value", function()
    local thread = coroutine.create(print)
    local values = table.pack(nil, false, true, 1, "x", {}, print, thread, hostile())
    for index = 1, values.n do
      assert.is_false(errors.is(values[index], "TimeoutError"))
    end
  end)

  it("knows an error by its metatable, not by its fields", function()
    assert.is_true(errors.is(errors.new("Closed"), "Closed"))
    assert.is_false(errors.is(errors.new("Closed"), "TimeoutError"))
    assert.is_false(errors.is({ kind = "Closed", message = "shut" }, "Closed"))
  end)

  it("looks through causes, also those of foreign tables", function()
    local root = errors.new("OSError", "refused")
    local middle = setmetatable({ cause = root }, { __tostring = error })
    local top = errors.new("TimeoutError", "late", { cause = middle })
    assert.is_true(errors.is(top, "TimeoutError"))
    assert.is_true(errors.is(top, "OSError"))
    assert.is_true(errors.is(middle, "OSError"))
    assert.is_false(errors.is(top, "Closed"))
  end)

  it("ends on causes that form a loop", function()
    local a = errors.new("Closed")
    local b = errors.new("TimeoutError", nil, { cause = a })
    a.cause = b
    assert.is_true(errors.is(a, "TimeoutError"))
    assert.is_false(errors.is(a, "Deadlock"))
    a.cause = a
    assert.is_false(errors.is(a, "Deadlock"))
  end)

  it("does not look inside groups", function()
    assert.is_false(errors.is(group { errors.new("Closed") }, "Closed"))
  end)

  it("raises on an unknown kind, whatever the error", function()
    assert.has_error(function()
      errors.is(nil, "timeouterror")
    end, "errors.is: unknown error kind 'timeouterror' (did you mean 'TimeoutError'?)")
    assert.has_error(function()
      errors.is("x", nil)
    end, "errors.is: unknown error kind a nil")
  end)

  it("is a method as well", function()
    assert.is_true(errors.new("Closed"):is("Closed"))
    assert.has_error(function()
      errors.new("Closed"):is("Shut")
    end)
  end)
end)

describe("tostring of an error", function()
  it("is its kind and message where concur.errors cannot be loaded", function()
    support.check_lua [[
      local core = require "concur.core"
      local event = core.Event()
      local ok, e = pcall(event.wait, event) -- Deadlock
      local searchers = package.searchers
      package.searchers = {}
      assert(not ok and tostring(e):find "^Deadlock: every task waits", tostring(e))
      assert(tostring(setmetatable({}, getmetatable(e))) == "Error: ")
      package.searchers = searchers
      assert(tostring(e):find "Deadlock: every task waits" and package.loaded["concur.errors"])
    ]]
  end)

  it("is kind and message", function()
    assert.equal("TimeoutError: too late", tostring(errors.new("TimeoutError", "too late")))
    assert.equal("Closed", tostring(errors.new("Closed")))
  end)

  it("tells the innermost Lua line where it is known, once", function()
    local e = errors.new("TimeoutError", "too late", { traceback = TRACEBACK })
    assert.equal("TimeoutError: too late (at main.lua:3)", tostring(e))
    e.message = "main.lua:3: too late"
    assert.equal("TimeoutError: main.lua:3: too late", tostring(e))
  end)

  it("shows the reason of a Cancelled without message", function()
    local e = errors.new("Cancelled", nil, { reason = "no more" })
    assert.equal("Cancelled: no more", tostring(e))
  end)

  it("reads like the system's message for an OSError", function()
    local e = errors.new("OSError", "connection refused", {
      call = "connect",
      address = "127.0.0.1:1",
      code = "ECONNREFUSED",
    })
    local text = "connect 127.0.0.1:1: connection refused (ECONNREFUSED)"
    assert.equal(text, tostring(e))
    assert.equal(text, tostring(errors.new("OSError", text, { code = "ECONNREFUSED" })))
    assert.equal("no idea", tostring(errors.new("OSError", "no idea")))
    local missing = { call = "open", path = "/none", code = "ENOENT" }
    assert.equal(
      "open /none: no such file or directory (ENOENT)",
      tostring(errors.new("OSError", "no such file or directory", missing))
    )
  end)

  it("starts with the original message for a RemoteError", function()
    local e = errors.new("RemoteError", "job.lua:1: boom", { remote_traceback = TRACEBACK })
    assert.equal("job.lua:1: boom", tostring(e))
  end)

  it("lists the leaves of a group", function()
    local e = group({
      "main.lua:1: boom\nsecond line",
      errors.new("Closed", "shut", { traceback = TRACEBACK }),
      group { "inner" },
    }, { message = "in task_group" })
    assert.same({
      "ErrorGroup: in task_group (3 errors)",
      "  [1] main.lua:1: boom",
      "  [2] Closed: shut (at main.lua:3)",
      "  [3] inner",
    }, lines(tostring(e)))
  end)

  it("counts one error as one, and leaves out the end of a long list", function()
    assert.equal("ErrorGroup: 1 error\n  [1] a", tostring(group { "a" }))
    local list = {}
    for index = 1, 25 do
      list[index] = "e" .. index
    end
    local text = lines(tostring(group(list)))
    assert.equal(12, #text)
    assert.equal("  ... and 15 more", text[12])
  end)

  it("survives anything inside a group", function()
    local e = group { n = 4, nil, false, hostile(), 4 }
    assert.same({
      "ErrorGroup: 4 errors",
      "  [1] nil (an error without a value)",
      "  [2] false",
      "  [3] a table whose __tostring fails",
      "  [4] 4",
    }, lines(tostring(e)))
    e.errors[4] = e
    assert.matches("^ErrorGroup: 4 errors", tostring(e))
  end)

  it("survives fields of the wrong type", function()
    local e = errors.new("Closed", "shut")
    e.kind, e.message, e.traceback, e.cause = {}, hostile(), 5, 7
    assert.equal("string", type(tostring(e)))
    assert.equal("string", type(errors.format(e)))
    local g = group { "a" }
    g.tasks, g.tracebacks, g.n = 1, 2, "x"
    assert.matches("^ErrorGroup: 1 error", tostring(g))
    assert.equal("string", type(errors.format(g)))
  end)

  it("can be concatenated, as the strings of Lua's io can", function()
    local e = errors.new("Closed", "shut")
    assert.equal("failed: Closed: shut", "failed: " .. e)
    assert.equal("Closed: shut!", e .. "!")
    assert.equal("Closed: shutClosed: shut", e .. e)
  end)
end)

describe("errors.format", function()
  it("shows a string with the traceback that was given", function()
    assert.same({
      "main.lua:3: boom",
      "stack traceback:",
      "    main.lua:3: in local 'fetch'",
      "    main.lua:9: in main chunk",
    }, lines(errors.format("main.lua:3: boom", TRACEBACK)))
  end)

  it("prefers the traceback that the error carries: the first one", function()
    local e = errors.new("Closed", "shut", { traceback = "stack traceback:\n\tfirst.lua:1: in x" })
    local text = errors.format(e, "stack traceback:\n\tlater.lua:1: in y")
    assert.matches("first.lua:1", text, 1, true)
    assert.not_matches("later.lua", text, 1, true)
  end)

  it("leaves out the library's own Lua files, but not everything", function()
    local own = debug.getinfo(errors.format, "S").short_src
    local traceback = "stack traceback:\n\t" .. own .. ":5: in function 'x'\n\tmain.lua:1: in y"
    local text = "boom\nstack traceback:\n    main.lua:1: in y"
    assert.equal(text, errors.format("boom", traceback))
    local only = "stack traceback:\n\t[C]: in ?"
    assert.equal("boom\nstack traceback:\n    [C]: in ?", errors.format("boom", only))
  end)

  it("keeps a user's file in a directory of the same name", function()
    local traceback = "stack traceback:\n\telsewhere/concur/mine.lua:1: in function 'x'"
    assert.matches("mine.lua:1", errors.format("boom", traceback), 1, true)
  end)

  it("shows causes, the worker's traceback and its stderr", function()
    local root = errors.new("OSError", "refused", { code = "ECONNREFUSED", call = "connect" })
    local e = errors.new("RemoteError", "job.lua:1: boom", {
      remote_traceback = "stack traceback:\n\tjob.lua:1: in function 'job'",
      traceback = TRACEBACK,
      cause = errors.new("WorkerCrashed", "worker ended", { stderr = "oh\nno\n", cause = root }),
    })
    assert.same({
      "job.lua:1: boom",
      "stack traceback:",
      "    main.lua:3: in local 'fetch'",
      "    main.lua:9: in main chunk",
      "in the worker:",
      "    job.lua:1: in function 'job'",
      "caused by: WorkerCrashed: worker ended",
      "stderr:",
      "    oh",
      "    no",
      "caused by: connect: refused (ECONNREFUSED)",
    }, lines(errors.format(e)))
  end)

  it("shows a group as a tree, each leaf with its traceback and its task", function()
    local task = {
      name = function()
        return "fetch"
      end,
    }
    local deep = "stack traceback:\n\tmain.lua:7: in g"
    local inner = group({ "main.lua:7: deep" }, { tracebacks = { deep } })
    local e = group({ "main.lua:3: boom\nand more", inner, errors.new("Closed", "shut") }, {
      message = "in task_group",
      traceback = "stack traceback:\n\tmain.lua:20: in main chunk",
      tracebacks = { TRACEBACK },
      tasks = { task },
    })
    assert.same({
      "ErrorGroup: in task_group (3 errors)",
      "stack traceback:",
      "    main.lua:20: in main chunk",
      "+- 1 of 3, task 'fetch'",
      "|  main.lua:3: boom",
      "|  and more",
      "|  stack traceback:",
      "|      main.lua:3: in local 'fetch'",
      "|      main.lua:9: in main chunk",
      "+- 2 of 3",
      "|  ErrorGroup: 1 error",
      "|  +- 1 of 1",
      "|     main.lua:7: deep",
      "|     stack traceback:",
      "|         main.lua:7: in g",
      "+- 3 of 3",
      "   Closed: shut",
    }, lines(errors.format(e)))
  end)

  it("shows each error once, so loops end", function()
    local a = errors.new("Closed", "shut")
    a.cause = a
    assert.equal("Closed: shut", errors.format(a))
    local g = group { a, a }
    g.errors[3], g.n = g, 3
    assert.same({
      "ErrorGroup: 3 errors",
      "+- 1 of 3",
      "|  Closed: shut",
      "+- 2 of 3",
      "|  Closed: shut (shown above)",
      "+- 3 of 3",
      "   ErrorGroup: 3 errors (shown above)",
    }, lines(errors.format(g)))
  end)

  it("does not run out of stack on deep groups and long chains", function()
    local g, e = group { "leaf" }, errors.new("Closed")
    for _ = 1, 20000 do
      g = group { g }
      e = errors.new("Closed", nil, { cause = e })
    end
    assert.matches("groups inside it are left out", errors.format(g), 1, true)
    assert.equal(20001, #lines(errors.format(e)))
    assert.is_false(errors.is(e, "Deadlock"))
    assert.equal(g, (errors.split(g, function() return true end)))
  end)

  it("takes any value", function()
    assert.equal("nil (an error without a value)", errors.format(nil))
    assert.equal("false", errors.format(false))
    assert.equal("a table whose __tostring fails", errors.format(hostile()))
    assert.has_error(function()
      errors.format("x", {})
    end, "bad argument #2 to 'format' (string expected, got table)")
  end)

  it("is a method as well", function()
    local e = errors.new("Closed", "shut")
    assert.equal(errors.format(e, TRACEBACK), e:format(TRACEBACK))
  end)
end)

describe("errors.leaves", function()
  it("goes through nested groups, depth first, with tracebacks and tasks", function()
    local task = {}
    local closed = errors.new("Closed", "shut", { traceback = "own" })
    local inner = group({ "b", closed }, { tracebacks = { "tb", "not this" }, tasks = { task } })
    local outer = group({ "a", inner, "d" }, { tracebacks = { "ta" } })
    local seen = {}
    for index, e, traceback, owner in errors.leaves(outer) do
      seen[index] = { e, traceback or "-", owner or "-" }
    end
    assert.same({
      { "a", "ta", "-" },
      { "b", "tb", task },
      { closed, "own", "-" },
      { "d", "-", "-" },
    }, seen)
  end)

  it("does not stop at nil or false", function()
    local count = 0
    for index, e in errors.leaves(group { n = 3, nil, false, "x" }) do
      count = count + 1
      assert.equal(index, count)
      assert.is_true(index < 3 or e == "x")
    end
    assert.equal(3, count)
  end)

  it("takes any value as its own leaf", function()
    for index, e in errors.leaves("boom") do
      assert.equal(1, index)
      assert.equal("boom", e)
    end
  end)

  it("ends on a group that contains itself", function()
    local g = group { "a" }
    g.errors[2], g.n = g, 2
    local count = 0
    for _ in errors.leaves(g) do
      count = count + 1
    end
    assert.equal(1, count)
  end)
end)

describe("errors.split", function()
  local closed, late = errors.new("Closed", "shut"), errors.new("TimeoutError", "late")

  it("keeps structure, messages, tracebacks and tasks", function()
    local inner = group({ closed, "x" }, {
      message = "inner",
      traceback = "ti",
      tracebacks = { "t1", "t2" },
    })
    local outer = group({ late, inner, closed }, {
      message = "outer",
      tasks = { "k1", "k2", "k3" },
    })
    local matching, rest = errors.split(outer, "Closed")

    assert.equal("outer", matching.message)
    assert.equal(2, matching.n)
    assert.equal("inner", matching.errors[1].message)
    assert.same({ closed }, matching.errors[1].errors)
    assert.same({ "t1" }, matching.errors[1].tracebacks)
    assert.equal("ti", matching.errors[1].traceback)
    assert.equal(closed, matching.errors[2])
    assert.same({ "k2", "k3" }, matching.tasks)

    assert.equal(2, rest.n)
    assert.equal(late, rest.errors[1])
    assert.same({ "x" }, rest.errors[2].errors)
    assert.same({ "t2" }, rest.errors[2].tracebacks)
    assert.equal(3, outer.n)
    assert.equal(2, inner.n)
  end)

  it("gives the group itself when all or none match", function()
    local g = group { closed, group { closed } }
    local matching, rest = errors.split(g, "Closed")
    assert.equal(g, matching)
    assert.is_nil(rest)
    matching, rest = errors.split(g, "Deadlock")
    assert.is_nil(matching)
    assert.equal(g, rest)
  end)

  it("gives an inner group itself when it is not taken apart", function()
    local inner = group { closed, closed }
    local matching = errors.split(group { inner, late }, "Closed")
    assert.equal(inner, matching.errors[1])
  end)

  it("asks a function about each leaf, nil and false included", function()
    local asked = {}
    local matching, rest = errors.split(group { n = 3, nil, false, "x" }, function(leaf)
      asked[#asked + 1] = tostring(leaf)
      return leaf == nil
    end)
    assert.same({ "nil", "false", "x" }, asked)
    assert.equal(1, matching.n)
    assert.is_nil(matching.errors[1])
    assert.same({ false, "x" }, rest.errors)
    assert.equal(2, rest.n)
  end)

  it("treats an error that is no group as a leaf", function()
    local matching, rest = errors.split(closed, "Closed")
    assert.equal(closed, matching)
    assert.is_nil(rest)
    matching, rest = errors.split("boom", "Closed")
    assert.is_nil(matching)
    assert.equal("boom", rest)
  end)

  it("matches a leaf by its cause too", function()
    local wrapped = errors.new("TimeoutError", "late", { cause = closed })
    assert.equal(wrapped, errors.split(group { wrapped, "x" }, "Closed").errors[1])
  end)

  it("refuses bad predicates and passes their errors on", function()
    assert.has_error(function()
      errors.split(closed, "closed")
    end, "errors.split: unknown error kind 'closed' (did you mean 'Closed'?)")
    assert.has_error(function()
      errors.split(closed, nil)
    end, "bad argument #2 to 'split' (kind or function expected, got nil)")
    assert.has_error(function()
      errors.split(group { "a" }, function()
        error("pred", 0)
      end)
    end, "pred")
  end)
end)

describe("errors.catch", function()
  local function raise(e)
    return function()
      error(e, 0)
    end
  end

  it("passes arguments and returns all results", function()
    local results = table.pack(errors.catch(function(...)
      return nil, ...
    end, {}, 1, nil))
    assert.same({ n = 3, nil, 1, nil }, results)
  end)

  it("gives a single error to the handler of its kind", function()
    local e = errors.new("Closed", "shut")
    local got, more = errors.catch(raise(e), {
      Closed = function(x)
        return x, "handled"
      end,
      TimeoutError = error,
    })
    assert.equal(e, got)
    assert.equal("handled", more)
  end)

  it("raises what has no handler, identity kept", function()
    for _, e in ipairs { errors.new("Deadlock"), "text", {}, false, 42 } do
      local ok, got = pcall(errors.catch, raise(e), { Closed = print })
      assert.is_false(ok)
      assert.is_true(rawequal(e, got))
    end
    local ok, got = pcall(errors.catch, raise(nil), { Closed = print })
    assert.is_false(ok)
    assert.is_nil(got)
  end)

  it("prefers the error's own kind to that of a cause, and the nearest cause", function()
    local root = errors.new("Closed")
    local middle = errors.new("OSError", "x", { cause = root })
    local top = errors.new("TimeoutError", "late", { cause = middle })
    local function kind(name)
      return function()
        return name
      end
    end
    local all = { TimeoutError = kind "top", OSError = kind "middle", Closed = kind "root" }
    assert.equal("top", errors.catch(raise(top), all))
    all.TimeoutError = nil
    assert.equal("middle", errors.catch(raise(top), all))
    all.OSError = nil
    assert.equal("root", errors.catch(raise(top), all))
  end)

  it("passes what the handler raises", function()
    assert.has_error(function()
      errors.catch(raise(errors.new("Closed")), { Closed = raise "from handler" })
    end, "from handler")
  end)

  it("lets Cancelled through unless it is named, whatever its cause", function()
    local e = errors.new("Cancelled", "stop", { cause = errors.new("Closed") })
    local ok, got = pcall(errors.catch, raise(e), { Closed = print, TimeoutError = print })
    assert.is_false(ok)
    assert.equal(e, got)
    assert.equal("seen", errors.catch(raise(e), {
      Cancelled = function()
        return "seen"
      end,
    }))
  end)

  it("does not take an error for Cancelled because of its cause", function()
    local e = errors.new("TimeoutError", "late", { cause = errors.new("Cancelled") })
    local ok, got = pcall(errors.catch, raise(e), { Cancelled = print })
    assert.is_false(ok)
    assert.equal(e, got)
  end)

  it("keeps the place where an error was raised first", function()
    local e = errors.new("Closed", "shut")
    local function innermost()
      error(e)
    end
    pcall(errors.catch, innermost, {})
    assert.matches("errors_spec.lua", errors.format(e), 1, true)
    local first = e.traceback
    pcall(errors.catch, raise(e), {})
    assert.equal(first, e.traceback)
  end)

  it("can suspend in the function and in the handler", function()
    local co = coroutine.wrap(function()
      return errors.catch(function()
        coroutine.yield("in fn")
        error(errors.new("Closed"))
      end, {
        Closed = function()
          coroutine.yield("in handler")
          return "end"
        end,
      })
    end)
    assert.equal("in fn", co())
    assert.equal("in handler", co())
    assert.equal("end", co())
    co = coroutine.wrap(function()
      return errors.catch(raise(group { errors.new("Closed"), errors.new("TimeoutError") }), {
        Closed = function()
          coroutine.yield("one")
          return 1
        end,
        TimeoutError = function()
          coroutine.yield("two")
          return 2
        end,
      })
    end)
    assert.equal("one", co())
    assert.equal("two", co())
    assert.equal(1, co())
  end)

  it("names a wrong argument, and does not call the function", function()
    local called = false
    local function fn()
      called = true
    end
    for message, call in pairs {
      ["bad argument #1 to 'catch' (function expected, got nil)"] = function()
        errors.catch(nil, {})
      end,
      ["bad argument #2 to 'catch' (table expected, got nil)"] = function()
        errors.catch(fn)
      end,
      ["errors.catch: unknown error kind 'Timeout' (did you mean 'TimeoutError'?)"] = function()
        errors.catch(fn, { Timeout = print })
      end,
      ["errors.catch: handler for 'Closed' is a boolean, not a function"] = function()
        errors.catch(fn, { Closed = true })
      end,
    } do
      assert.has_error(call, message)
    end
    assert.is_false(called)
  end)

  describe("with a group", function()
    local closed, late = errors.new("Closed", "shut"), errors.new("TimeoutError", "late")

    it("gives each handler a group of its kind, in the order of the leaves", function()
      local order = {}
      local function note(name)
        return function(part)
          order[#order + 1] = name .. part.n
          return name
        end
      end
      local result = errors.catch(raise(group { late, closed, late }), {
        Closed = note "closed",
        TimeoutError = note "late",
      })
      assert.same({ "late2", "closed1" }, order)
      assert.equal("late", result)
    end)

    it("raises the rest as a group that keeps its structure", function()
      local handled
      local ok, rest = pcall(errors.catch, raise(group { closed, group { "x", closed } }), {
        Closed = function(part)
          handled = part
        end,
      })
      assert.is_false(ok)
      assert.equal(2, handled.n)
      assert.equal("ErrorGroup", rest.kind)
      assert.equal(1, rest.n)
      assert.same({ "x" }, rest.errors[1].errors)
    end)

    it("gives a handler for ErrorGroup what the others do not take", function()
      local rest
      errors.catch(raise(group { "x", closed, false }), {
        Closed = function() end,
        ErrorGroup = function(part)
          rest = part
        end,
      })
      assert.same({ "x", false }, rest.errors)
    end)

    it("raises the whole group when nothing matches", function()
      local g = group { "x" }
      local ok, got = pcall(errors.catch, raise(g), { Closed = print })
      assert.is_false(ok)
      assert.equal(g, got)
      g = group {}
      ok, got = pcall(errors.catch, raise(g), { ErrorGroup = print })
      assert.is_false(ok)
      assert.equal(g, got)
    end)

    it("runs every handler, and raises what they raised with the rest", function()
      local ran = false
      local ok, e = pcall(errors.catch, raise(group { closed, late, "x" }), {
        Closed = raise "new",
        TimeoutError = function()
          ran = true
        end,
      })
      assert.is_false(ok)
      assert.is_true(ran)
      assert.equal(2, e.n)
      assert.equal("new", e.errors[1])
      assert.same({ "x" }, e.errors[2].errors)
    end)

    it("raises a single error of a handler as it is", function()
      assert.has_error(function()
        errors.catch(raise(group { closed }), { Closed = raise "new" })
      end, "new")
    end)

    it("takes a part that a handler raises again as not handled", function()
      local g = group { closed, group { "x", closed } }
      local ok, e = pcall(errors.catch, raise(g), {
        Closed = function(part)
          error(part, 0)
        end,
      })
      assert.is_false(ok)
      assert.equal(g, e)
    end)

    it("raises Cancelled from a handler only if there is no real error", function()
      local cancelled = errors.new("Cancelled", "stop")
      local handlers = { Closed = raise(cancelled) }
      local ok, e = pcall(errors.catch, raise(group { closed }), handlers)
      assert.is_false(ok)
      assert.equal(cancelled, e)
      ok, e = pcall(errors.catch, raise(group { closed, "x" }), handlers)
      assert.is_false(ok)
      assert.same({ "x" }, e.errors)
    end)
  end)
end)

describe("errors in tasks", function()
  it("pass errors.catch with the traceback of where they were raised first", function()
    local traceback
    concur.Runner({
      on_error = function(_, context)
        traceback = context.traceback
      end,
    }):run(function()
      concur.spawn(function()
        local function innermost()
          error("deep")
        end
        errors.catch(function()
          innermost()
          return "no tail call"
        end, { Closed = print })
      end)
      concur.sleep(0)
    end)
    assert.matches("innermost", traceback, 1, true)
  end)

  it("are caught by kind in groups, while function and handlers suspend", function()
    local closed, result = {}, nil
    local ok, rest = pcall(concur.run, function()
      result = errors.catch(concur.task_group, {
        Closed = function(part)
          concur.sleep(0)
          for _, e in errors.leaves(part) do
            closed[#closed + 1] = e.message
          end
          return "handled"
        end,
      }, function(g)
        for index = 1, 2 do
          g:spawn(function()
            error(errors.new("Closed", "number " .. index))
          end)
        end
      end)
    end)
    assert.is_true(ok, tostring(rest))
    assert.equal("handled", result)
    assert.same({ "number 1", "number 2" }, closed)
  end)

  it("do not keep Cancelled from its scope", function()
    local after = false
    local finished = concur.run(concur.move_on_after, 0, function()
      errors.catch(concur.sleep, { TimeoutError = print }, 10)
      after = true
    end)
    assert.is_false(finished)
    assert.is_false(after)
  end)

  it("show the tree of a group with each task and the line in its file", function()
    local ok, e = pcall(concur.run, concur.task_group, function(g)
      g:spawn(function()
        error("disk full")
      end):set_name("writer")
      g:spawn(concur.task_group, function(inner)
        inner:spawn(error, "inner", 0)
      end)
    end)
    assert.is_false(ok)
    local text = errors.format(e)
    assert.matches("^ErrorGroup: in a task group %(2 errors%)\n", text)
    assert.matches("\n%+%- 1 of 2, task 'writer'\n", text)
    assert.matches("\n|  [^\n]*errors_spec.lua:%d+: disk full\n", text)
    assert.matches("\n|  stack traceback:\n|      [^\n]*errors_spec.lua:%d+: in ", text)
    assert.matches("\n%+%- 2 of 2, task 'Task%-%d+'\n   ErrorGroup: .*%(1 error%)\n", text)
    assert.matches("\n   %+%- 1 of 1, task 'Task%-%d+'\n      inner", text)
  end)

  it("say what a user needs when a plain script does not catch them", function()
    local result = support.run_lua [[
      local concur = require "concur"
      concur.run(concur.task_group, function(g)
        g:spawn(function() error("disk full", 0) end)
        g:spawn(function() concur.timeout(0, error, "no paper", 0) end)
      end)
    ]]
    assert.equal(1, result.code)
    assert.matches("ErrorGroup: in a task group %(2 errors%)\n", result.stderr)
    assert.matches("  [1] disk full", result.stderr, 1, true)
    assert.matches("  [2] no paper", result.stderr, 1, true)
  end)

  it("have their methods before concur.errors is loaded", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local ok, e = pcall(concur.timeout, 0, concur.sleep, 1)
      assert(package.loaded["concur.errors"] == nil)
      assert(e.cause == nil and e:is("TimeoutError"))
      local _, e = pcall(concur.timeout, 0, concur.sleep, 1)
      print("text: " .. e)
    ]]
    assert.equal(0, result.code, result.stderr)
    assert.matches("text: TimeoutError: ", result.stdout, 1, true)
  end)
end)
