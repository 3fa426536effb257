-- SPDX-License-Identifier: MIT
-- Task groups: leaving, errors, cancellation, start, nesting, and misuse.

local concur = require "concur"
local errors = require "concur.errors"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

local function sleep_and_fail(seconds, e)
  concur.sleep(seconds)
  error(e, 0)
end

describe("task_group", function()
  it("returns the results of its body, after all children have ended", function()
    local start = concur.now()
    local ended = 0
    assert.same({ "a", nil, "c", n = 3 }, table.pack(concur.task_group(function(group, ...)
      for seconds = 1, 3 do
        group:spawn(function()
          concur.sleep(seconds)
          ended = ended + 1
        end)
      end
      return ...
    end, "a", nil, "c")))
    assert.equal(3, ended)
    assert.near(3, concur.now() - start, 1e-6)
  end)

  it("with no children returns the results of its body at once", function()
    local start = concur.now()
    assert.equal("value", concur.task_group(function()
      return "value"
    end))
    assert.equal(start, concur.now())
    assert.equal(0, select("#", concur.task_group(function() end)))
  end)

  it("hands out tasks whose results can be read after it", function()
    local one, two
    concur.task_group(function(group)
      one = group:spawn(concur.sleep, 2, "one")
      two = group:spawn(concur.sleep, 1, "two")
    end)
    assert.equal("one", one:result())
    assert.equal("two", two:result())
  end)

  it("passes arguments to children and keeps all their results", function()
    local task
    concur.task_group(function(group)
      task = group:spawn(function(...)
        return select("#", ...), ...
      end, nil, "x", nil)
    end)
    assert.same({ 3, nil, "x", nil, n = 4 }, table.pack(task:result()))
  end)

  it("starts children in the order of their spawn, at the next turn", function()
    local order = {}
    concur.task_group(function(group)
      for i = 1, 5 do
        group:spawn(function()
          order[#order + 1] = i
        end)
      end
      order[#order + 1] = "body"
    end)
    assert.same({ "body", 1, 2, 3, 4, 5 }, order)
  end)

  it("runs children while its body works", function()
    local order = {}
    concur.task_group(function(group)
      group:spawn(function()
        for _ = 1, 3 do
          order[#order + 1] = "child"
          concur.checkpoint()
        end
      end)
      for _ = 1, 3 do
        order[#order + 1] = "body"
        concur.checkpoint()
      end
    end)
    assert.same({ "body", "child", "body", "child", "body", "child" }, order)
  end)

  it("lets children spawn siblings, also while it is being left", function()
    local ended = {}
    concur.task_group(function(group)
      group:spawn(function()
        concur.sleep(1)
        group:spawn(function()
          concur.sleep(1)
          group:spawn(function()
            concur.sleep(1)
            ended[#ended + 1] = 3
          end)
          ended[#ended + 1] = 2
        end)
        ended[#ended + 1] = 1
      end)
    end)
    assert.same({ 1, 2, 3 }, ended)
  end)

  it("can be spawned into from another task that was given the group", function()
    local seen
    concur.task_group(function(group)
      local outside = concur.spawn(function()
        group:spawn(function()
          concur.sleep(1)
          seen = "child"
        end)
      end)
      outside:result()
    end)
    assert.equal("child", seen)
  end)

  it("gives children a copy of the context variables at spawn", function()
    local var = concur.ContextVar("none")
    var:set("outer")
    local seen = {}
    concur.task_group(function(group)
      group:spawn(function()
        seen[1] = var:get()
        var:set("child")
      end)
      concur.checkpoint()
      seen[2] = var:get()
    end)
    assert.same({ "outer", "outer" }, seen)
  end)

  it("has thousands of children", function()
    local count = 0
    concur.task_group(function(group)
      for _ = 1, 2000 do
        group:spawn(function()
          concur.sleep(1)
          count = count + 1
        end)
      end
    end)
    assert.equal(2000, count)
  end)

  it("knows its state as text", function()
    local kept
    concur.task_group(function(group)
      kept = group
      assert.matches("TaskGroup", tostring(group))
      group:spawn(concur.checkpoint)
      assert.matches("1", tostring(group))
    end)
    assert.matches("TaskGroup", tostring(kept))
  end)

  it("lets a background task outlive it", function()
    local task
    concur.task_group(function()
      task = concur.spawn(concur.sleep, 5, "value")
    end)
    assert.equal("pending", task:state())
    assert.equal("value", task:result())
  end)
end)

describe("an error in a task group", function()
  it("of a child cancels the siblings and the body, joins them, and is raised", function()
    local start = concur.now()
    local sibling, body_kind
    expect.group({ "boom" }, concur.task_group, function(group)
      group:spawn(sleep_and_fail, 1, "boom")
      sibling = group:spawn(concur.sleep, 10)
      local _, e = pcall(concur.sleep, 10)
      body_kind = e.kind
      error(e, 0)
    end)
    assert.equal("Cancelled", body_kind)
    assert.equal("cancelled", sibling:state())
    assert.near(1, concur.now() - start, 1e-6)
  end)

  it("of the body cancels the children and is raised in a group", function()
    local child
    expect.group({ "body" }, concur.task_group, function(group)
      child = group:spawn(concur.sleep, 10)
      concur.checkpoint()
      error("body", 0)
    end)
    assert.equal("cancelled", child:state())
  end)

  it("of the body before the children started still starts them", function()
    local trace = {}
    expect.group({ "body" }, concur.task_group, function(group)
      group:spawn(function()
        trace[#trace + 1] = "started"
        concur.checkpoint()
        trace[#trace + 1] = "wrong"
      end)
      error("body", 0)
    end)
    assert.same({ "started" }, trace)
  end)

  it("is raised when the body has returned already", function()
    expect.group({ "late" }, concur.task_group, function(group)
      group:spawn(sleep_and_fail, 3, "late")
      return "value"
    end)
  end)

  it("is kept with those of other children that failed at the same time", function()
    expect.group({ "one", "two", "three" }, concur.task_group, function(group)
      group:spawn(sleep_and_fail, 1, "one")
      group:spawn(sleep_and_fail, 1, "two")
      group:spawn(sleep_and_fail, 1, "three")
      concur.sleep(10)
    end)
  end)

  it("is kept with the error of a sibling's clean-up", function()
    expect.group({ "first", "clean-up" }, concur.task_group, function(group)
      group:spawn(function()
        local _ <close> = expect.guard(function()
          error("clean-up", 0)
        end)
        concur.sleep(10)
      end)
      group:spawn(sleep_and_fail, 1, "first")
    end)
  end)

  it("is kept with the error of the body's clean-up", function()
    expect.group({ "child", "body's clean-up" }, concur.task_group, function(group)
      group:spawn(sleep_and_fail, 1, "child")
      local _ <close> = expect.guard(function()
        error("body's clean-up", 0)
      end)
      concur.sleep(10)
    end)
  end)

  it("of an inner group nests in the outer one's", function()
    local group = expect.error("ErrorGroup", concur.task_group, function(outer)
      outer:spawn(concur.sleep, 10)
      concur.task_group(function(inner)
        inner:spawn(sleep_and_fail, 1, "deep")
      end)
    end)
    assert.equal(1, group.n)
    assert.equal("ErrorGroup", group.errors[1].kind)
    assert.same({ "deep" }, group.errors[1].errors)
  end)

  it("of the outer group passes an inner group that has only been cancelled", function()
    expect.group({ "outer" }, concur.task_group, function(outer)
      outer:spawn(sleep_and_fail, 1, "outer")
      concur.task_group(function(inner)
        inner:spawn(sleep_and_fail, 10, "inner")
      end)
    end)
  end)

  it("of both: each stays in its place", function()
    local group = expect.error("ErrorGroup", concur.task_group, function(outer)
      local function fail_in_the_end(e)
        local _ <close> = expect.guard(function()
          error(e, 0)
        end)
        concur.sleep(1)
        concur.sleep(10)
      end
      outer:spawn(fail_in_the_end, "parent")
      concur.task_group(function(inner)
        inner:spawn(fail_in_the_end, "child")
        concur.sleep(1)
        error("trigger", 0)
      end)
    end)
    local leaves = {}
    for _, leaf in errors.leaves(group) do
      leaves[#leaves + 1] = leaf
    end
    table.sort(leaves)
    assert.same({ "child", "parent", "trigger" }, leaves)
    assert.equal(2, group.n)
  end)

  it("can be any value", function()
    local own = {}
    expect.group({ own, false, 42 }, concur.task_group, function(group)
      group:spawn(error, own)
      group:spawn(error, false)
      group:spawn(error, 42)
    end)
    local group = expect.error("ErrorGroup", concur.task_group, function(nested)
      nested:spawn(error, nil)
    end)
    assert.equal(1, group.n)
    assert.is_nil(group.errors[1])
  end)

  it("comes with its traceback and its task", function()
    local task
    local group = expect.error("ErrorGroup", concur.task_group, function(group)
      task = group:spawn(function()
        concur.sleep(1)
        error "with a line"
      end)
      task:set_name "the culprit"
    end)
    assert.matches("group_spec.lua:%d+: with a line", group.errors[1])
    assert.matches("group_spec.lua", group.tracebacks[1])
    assert.equal(task, group.tasks[1])
    local text = errors.format(group)
    assert.matches("the culprit", text)
    assert.matches("with a line", text)
  end)

  it("is not reported again: the group has retrieved it", function(case)
    local child
    expect.group({ "boom" }, concur.task_group, function(group)
      child = group:spawn(error, "boom", 0)
    end)
    assert.equal("failed", child:state())
    assert.equal("boom", child:exception())
    child = nil -- luacheck: ignore
    collectgarbage()
    concur.checkpoint()
    assert.same({}, case:take_reports())
  end)

  it("that the body caught from the child's result is raised all the same", function()
    expect.group({ "boom" }, concur.task_group, function(group)
      local child = group:spawn(error, "boom", 0)
      pcall(child.result, child)
    end)
  end)

  it("wins over a cancellation from outside", function()
    local task = concur.spawn(concur.task_group, function(group)
      group:spawn(function()
        local _ <close> = expect.guard(function()
          error("real", 0)
        end)
        concur.sleep(10)
      end)
      concur.sleep(10)
    end)
    testing.run_until_idle()
    task:cancel()
    expect.group({ "real" }, task.result, task)
    assert.equal("failed", task:state())
  end)

  it("wins over the group's own cancellation", function()
    expect.group({ "real" }, concur.task_group, function(group)
      group:spawn(function()
        pcall(concur.sleep, 10)
        error("real", 0)
      end)
      concur.checkpoint()
      group:cancel()
    end)
  end)

  it("of spawn after a failure: the child runs to its first wait", function()
    local trace = {}
    expect.group({ "boom" }, concur.task_group, function(group)
      group:spawn(error, "boom", 0)
      pcall(concur.sleep, 10)
      group:spawn(function()
        trace[#trace + 1] = "ran"
        concur.checkpoint()
        trace[#trace + 1] = "wrong"
      end)
    end)
    assert.same({ "ran" }, trace)
  end)

  it("can be caught by kind around the group", function()
    local handled
    errors.catch(concur.task_group, {
      TimeoutError = function(part)
        handled = part.n
      end,
    }, function(group)
      -- Shielded, or the second would be cancelled by the group before it could time out.
      group:spawn(concur.shield, concur.timeout, 1, concur.sleep, 5)
      group:spawn(concur.shield, concur.timeout, 1, concur.sleep, 5)
    end)
    assert.equal(2, handled)
  end)
end)

describe("cancelling a task group", function()
  it("by group:cancel ends it without an error and without results", function()
    local child
    assert.equal(0, select("#", concur.task_group(function(group)
      child = group:spawn(concur.sleep, 10)
      concur.checkpoint()
      group:cancel()
      concur.sleep(10)
      return "never"
    end)))
    assert.equal("cancelled", child:state())
  end)

  it("takes a reason, and the first one wins", function()
    local seen
    concur.task_group(function(group)
      group:spawn(function()
        seen = expect.error("Cancelled", concur.sleep, 10)
      end)
      concur.checkpoint()
      group:cancel "first"
      group:cancel "second"
    end)
    assert.equal("first", seen.reason)
  end)

  it("from a child ends the siblings and the body", function()
    local start = concur.now()
    local trace = {}
    concur.task_group(function(group)
      group:spawn(function()
        concur.sleep(1)
        group:cancel()
      end)
      group:spawn(function()
        concur.sleep(10)
        trace[#trace + 1] = "wrong"
      end)
      concur.sleep(10)
      trace[#trace + 1] = "wrong"
    end)
    assert.same({}, trace)
    assert.near(1, concur.now() - start, 1e-6)
  end)

  it("starts children that had not started, and those spawned afterwards", function()
    local trace = {}
    concur.task_group(function(group)
      group:spawn(function()
        trace[#trace + 1] = "before"
        concur.sleep(1)
        trace[#trace + 1] = "wrong"
      end)
      group:cancel()
      group:spawn(function()
        trace[#trace + 1] = "after"
        concur.sleep(1)
        trace[#trace + 1] = "wrong"
      end)
    end)
    assert.same({ "before", "after" }, trace)
  end)

  it("reaches every level below", function()
    local ended = {}
    local function leaf(name)
      local ok = pcall(concur.sleep_forever)
      assert.is_false(ok)
      ended[#ended + 1] = name
    end
    local function worker(name)
      concur.task_group(function(group)
        group:spawn(leaf, name .. "1")
        group:spawn(leaf, name .. "2")
      end)
    end
    concur.task_group(function(group)
      group:spawn(worker, "a")
      group:spawn(worker, "b")
      concur.shield(testing.run_until_idle)
      group:cancel()
    end)
    table.sort(ended)
    assert.same({ "a1", "a2", "b1", "b2" }, ended)
  end)

  it("while it is being left ends the children", function()
    local child
    local task = concur.spawn(concur.task_group, function(group)
      child = group:spawn(concur.sleep_forever)
    end)
    testing.run_until_idle()
    task:cancel()
    expect.error("FutureCancelled", task.result, task)
    assert.equal("cancelled", child:state())
  end)

  it("while it is being left waits for clean-ups that are shielded", function()
    local start = concur.now()
    local cleaned = false
    local task = concur.spawn(concur.task_group, function(group)
      group:spawn(function()
        local _ <close> = expect.guard(function()
          concur.shield(concur.sleep, 3)
          cleaned = true
        end)
        concur.sleep_forever()
      end)
    end)
    testing.run_until_idle()
    task:cancel()
    expect.error("FutureCancelled", task.result, task)
    assert.is_true(cleaned)
    assert.near(3, concur.now() - start, 1e-6)
  end)

  it("from outside raises Cancelled only when there is no real error", function()
    local kind
    assert.is_false(concur.cancel_scope(function(scope)
      concur.spawn(function()
        scope:cancel()
      end)
      local _, e = pcall(concur.task_group, function(group)
        group:spawn(concur.sleep_forever)
        concur.sleep_forever()
      end)
      kind = e.kind
      error(e, 0)
    end))
    assert.equal("Cancelled", kind)
  end)

  it("of one child by task:cancel is no error", function()
    local one, two
    assert.equal("body", concur.task_group(function(group)
      one = group:spawn(concur.sleep, 10)
      two = group:spawn(concur.sleep, 2, "two")
      concur.sleep(1)
      one:cancel()
      return "body"
    end))
    assert.equal("cancelled", one:state())
    assert.equal("two", two:result())
  end)

  it("of a child before it started is no error", function()
    local child
    concur.task_group(function(group)
      child = group:spawn(concur.sleep, 10)
      child:cancel()
    end)
    assert.equal("cancelled", child:state())
  end)

  it("by an inner scope of a child stays in the child", function()
    local inner
    assert.equal("body", concur.task_group(function(group)
      local child = group:spawn(function()
        return concur.cancel_scope(function(scope)
          inner = scope
          concur.sleep_forever()
        end)
      end)
      testing.run_until_idle()
      inner:cancel()
      assert.is_false(child:result())
      return "body"
    end))
  end)

  it("twice is fine, also when it has ended", function()
    local kept
    concur.task_group(function(group)
      kept = group
      group:cancel()
      group:cancel()
    end)
    kept:cancel()
    concur.checkpoint()
  end)

  it("when all children have ended already leaves no residue", function()
    concur.task_group(function(group)
      group:spawn(concur.checkpoint)
      concur.sleep(1)
      group:cancel()
    end)
    concur.checkpoint()
    assert.equal(math.huge, concur.effective_deadline())
  end)

  it("through two groups in a row works for each", function()
    for _ = 1, 2 do
      concur.task_group(function(group)
        group:spawn(function()
          testing.run_until_idle()
          group:cancel()
        end)
        concur.sleep(1)
        error "not reached"
      end)
    end
  end)

  it("keeps the results of children that were ready", function()
    local future, child = concur.Future(), nil
    concur.task_group(function(group)
      child = group:spawn(function()
        return future:result()
      end)
      testing.run_until_idle()
      future:set_result "ready"
      group:cancel()
    end)
    assert.equal("ready", child:result())
  end)

  it("cancels even an empty group's way out", function()
    assert.is_false(concur.cancel_scope(function(scope)
      scope:cancel()
      concur.task_group(function(group)
        group:spawn(concur.checkpoint)
      end)
      error "not reached"
    end))
  end)

  it("reaches the children while the body is inside a shield", function()
    local child, shielded
    concur.task_group(function(group)
      child = group:spawn(concur.sleep_forever)
      concur.shield(function()
        testing.run_until_idle()
        group:cancel()
        testing.run_until_idle()
        shielded = child:state()
      end)
    end)
    assert.equal("cancelled", shielded)
  end)

  it("and the task around it in the same turn leaves nothing running", function()
    local child
    local task = concur.spawn(concur.task_group, function(group)
      child = group:spawn(concur.sleep_forever)
      concur.current_task():cancel()
      group:cancel()
      concur.sleep_forever()
    end)
    expect.error("FutureCancelled", task.result, task)
    assert.equal("cancelled", child:state())
  end)

  it("from a clean-up of one of its children does no harm", function()
    local trace = {}
    concur.task_group(function(group)
      group:spawn(function()
        local _ <close> = expect.guard(function()
          group:cancel()
          trace[#trace + 1] = "closed"
        end)
        concur.sleep(1)
      end)
      concur.sleep(5)
      trace[#trace + 1] = "wrong"
    end)
    assert.same({ "closed" }, trace)
  end)

  it("a child that swallows the cancellation and goes on is waited for", function()
    local start = concur.now()
    local child
    concur.task_group(function(group)
      child = group:spawn(function()
        pcall(concur.sleep, 10)
        concur.shield(concur.sleep, 2)
        return "stubborn"
      end)
      concur.checkpoint()
      group:cancel()
    end)
    assert.equal("stubborn", child:result())
    assert.near(2, concur.now() - start, 1e-6)
  end)

  it("runs every child's <close> variables exactly once", function()
    local guards = {}
    concur.task_group(function(group)
      for i = 1, 10 do
        guards[i] = expect.guard(function()
          concur.shield(concur.sleep, i)
        end)
        group:spawn(function()
          local _ <close> = guards[i]
          concur.sleep(100)
        end)
      end
      concur.checkpoint()
      group:cancel()
    end)
    for i = 1, 10 do
      assert.equal(1, guards[i].closed)
    end
  end)
end)

describe("group:start", function()
  it("waits until the child says that it has started, and returns its values", function()
    local start = concur.now()
    local at, child_ended
    concur.task_group(function(group)
      assert.same({ "port", nil, 80, n = 3 }, table.pack(group:start(function(started, ...)
        concur.sleep(2)
        started(...)
        concur.sleep(3)
        child_ended = concur.now() - start
      end, "port", nil, 80)))
      at = concur.now() - start
    end)
    assert.near(2, at, 1e-6)
    assert.near(5, child_ended, 1e-6)
  end)

  it("works without values and when the child says so at once", function()
    concur.task_group(function(group)
      assert.equal(0, select("#", group:start(function(started)
        started()
      end)))
    end)
  end)

  it("raises the error of a child that fails before it started, only there", function()
    assert.equal("body", concur.task_group(function(group)
      expect.same_error("early", group.start, group, function()
        concur.sleep(1)
        error("early", 0)
      end)
      return "body"
    end))
  end)

  it("puts an error after the start into the group", function()
    local value
    expect.group({ "late" }, concur.task_group, function(group)
      value = group:start(function(started)
        started(7)
        concur.sleep(1)
        error("late", 0)
      end)
    end)
    assert.equal(7, value)
  end)

  it("raises InvalidState when the child returns without having started", function()
    concur.task_group(function(group)
      expect.error("InvalidState", group.start, group, function() end)
    end)
  end)

  it("refuses a second call of started", function()
    concur.task_group(function(group)
      local message
      group:start(function(started)
        started(1)
        message = expect.error("InvalidState", started, 2)
      end)
      assert.is_string(message.message)
    end)
  end)

  it("cancelled before the start cancels the child and joins it", function()
    local guard = expect.guard(function()
      concur.shield(concur.sleep, 1)
    end)
    concur.task_group(function(group)
      assert.is_false(concur.move_on_after(2, function()
        group:start(function(started)
          local _ <close> = guard
          concur.sleep(10)
          started()
        end)
      end))
      assert.equal(1, guard.closed)
      concur.checkpoint() -- the group itself lives
    end)
  end)

  it("in a cancelled group: the child runs to its first wait, start raises", function()
    local trace = {}
    concur.task_group(function(group)
      group:cancel()
      group:start(function(started)
        trace[#trace + 1] = "ran"
        concur.sleep(1)
        started()
      end)
      trace[#trace + 1] = "wrong"
    end)
    assert.is_not_equal("wrong", trace[#trace])
  end)

  it("of a child that cancels the group before it has started raises there", function()
    local trace = {}
    concur.task_group(function(group)
      group:start(function(started)
        group:cancel()
        concur.checkpoint()
        started()
      end)
      trace[#trace + 1] = "wrong"
    end)
    assert.same({}, trace)
  end)

  it("of a child that is cancelled before it has started is an error there", function()
    concur.task_group(function(group)
      local child
      concur.spawn(function()
        concur.sleep(1)
        child:cancel()
      end)
      local e = expect.error("FutureCancelled", group.start, group, function()
        child = concur.current_task()
        concur.sleep(5)
      end)
      assert.equal("FutureCancelled", e.kind)
      concur.checkpoint() -- the group itself goes on
    end)
  end)

  it("may be called from a task outside the group", function()
    local got
    concur.task_group(function(group)
      concur.spawn(function()
        got = group:start(function(started)
          started "value"
          concur.sleep(1)
        end)
      end):result()
    end)
    assert.equal("value", got)
  end)

  it("keeps the group open until it is over", function()
    local ended = false
    concur.task_group(function(group)
      group:spawn(function()
        group:start(function(started)
          concur.sleep(2)
          started()
          concur.sleep(2)
          ended = true
        end)
      end)
    end)
    assert.is_true(ended)
  end)

  it("is cancelled by a failing sibling", function()
    local trace = {}
    expect.group({ "sibling" }, concur.task_group, function(group)
      group:spawn(sleep_and_fail, 1, "sibling")
      group:start(function(started)
        concur.sleep(5)
        started()
        trace[#trace + 1] = "wrong"
      end)
      trace[#trace + 1] = "wrong"
    end)
    assert.same({}, trace)
  end)

  it("can be told from outside that the child has started", function()
    local keep
    concur.task_group(function(group)
      group:spawn(function()
        testing.run_until_idle()
        keep "from a sibling"
      end)
      assert.equal("from a sibling", group:start(function(started)
        keep = started
        concur.sleep(1)
      end))
    end)
  end)
end)

describe("misuse of a group", function()
  it("after it has ended is an error", function()
    local kept
    concur.task_group(function(group)
      kept = group
    end)
    expect.error("InvalidState", kept.spawn, kept, function() end)
    expect.error("InvalidState", kept.start, kept, function() end)
    concur.checkpoint()
  end)

  it("of spawn with something else than a function is an error, and the group goes on", function()
    assert.equal("on", concur.task_group(function(group)
      expect.message("function", group.spawn, group)
      expect.message("function", group.spawn, group, 42)
      expect.message("function", group.start, group, nil)
      return "on"
    end))
  end)

  it("called with a dot is an argument error", function()
    concur.task_group(function(group)
      expect.message("TaskGroup", group.spawn, function() end)
    end)
    expect.message("function", concur.task_group)
    expect.message("function", concur.task_group, "text")
  end)

  it("entered in a foreign coroutine is an error", function()
    local co = coroutine.create(concur.task_group)
    assert.is_false((coroutine.resume(co, function() end)))
    concur.checkpoint()
  end)

  it("left with children because a stranger closed the coroutine: the children are cancelled",
    function()
      local child_state
      local child
      local step = concur.wrap(function()
        concur.task_group(function(group)
          child = group:spawn(concur.sleep_forever)
          concur.checkpoint()
          coroutine.yield "not allowed"
        end)
      end)
      expect.message("scope", step)
      concur.checkpoint()
      child_state = child:state()
      assert.equal("cancelled", child_state)
    end)
end)
