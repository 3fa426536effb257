-- SPDX-License-Identifier: MIT
--
-- Helpers for tests of code that uses concur: virtual time, "until everything waits", leak checks,
-- and a wrapper for the `it` of busted (or of any runner with a function of that shape).
--
-- Nothing here is loaded by `require "concur"`; programs that do not test do not pay for it.

local concur = require "concur"
local core = require "concur.core"
local errors = require "concur.errors"

---Helpers for your own tests: virtual time, leak checks, and wrapping of busted's `it`.
---@class concur.testing
local testing = {}

-- Time -----------------------------------------------------------------------------------------

--[[@lua
---A clock for `concur.Runner{clock = ...}` whose time is virtual, from `concur.testing.Clock()`.
---@class concur.Clock
local Clock = {}

---The time of this clock in seconds; it starts at 0.
---@return number seconds
function Clock:now() end

---Moves the clock forward by hand. Deadlines that are passed fire at the loop's next turn, in
---order.
---@param seconds number NaN is an argument error, negative counts as 0
function Clock:advance(seconds) end
]]

---Makes a virtual clock. A loop that runs on it never sleeps: when every task waits, no job is in
---flight and one empty poll has passed, the time jumps to the next deadline.
---@return concur.Clock
function testing.Clock()
  return core.Clock()
end

---Waits until everything else waits: no task is ready to run and no job is in flight. No time
---passes on a virtual clock. At top level it drives the loop until then.
---
---A task that waits for a descriptor or a timer counts as waiting. Several tasks may call this:
---they all go on together.
---@async
function testing.run_until_idle()
  core.wait_until_idle()
end

-- Leaks ----------------------------------------------------------------------------------------

---What is alive in this Lua state: tasks, timers, handles, scopes, jobs and more, each with its
---count. Never makes a loop.
---@return table<string, integer>
function testing.counters()
  return core.counters()
end

local function grown_since(before)
  local lines = {}
  for name, count in pairs(core.counters()) do
    if count > (before[name] or 0) then
      lines[#lines + 1] = ("%s: %d before, %d after"):format(name, before[name] or 0, count)
    end
  end
  table.sort(lines)
  return lines
end

---Names what has grown since `before`. Collects garbage before it says that something has.
---@param before table<string, integer> what `testing.counters` returned
---@return string[] lines such as "tasks: 0 before, 1 after"; empty when all is clean
function testing.leaks(before)
  if type(before) ~= "table" then
    error("bad argument #1 to 'leaks' (table expected, got " .. type(before) .. ")", 2)
  end
  local lines = grown_since(before)
  if #lines > 0 then
    collectgarbage()
    collectgarbage() -- what the first one finalised
    lines = grown_since(before)
  end
  return lines
end

local function finish_check(before, ...)
  local lines = testing.leaks(before)
  if #lines > 0 then
    error("left behind:\n  " .. table.concat(lines, "\n  "), 0)
  end
  return ...
end

---Calls `fn(...)` and returns its results, but raises if it left a task, timer, handle, scope or
---job behind. An error of `fn` is raised as it is.
---@async
---@param fn function may suspend
---@param ... any arguments of `fn`
---@return any ...
function testing.check_leaks(fn, ...)
  if type(fn) ~= "function" then
    error("bad argument #1 to 'check_leaks' (function expected, got " .. type(fn) .. ")", 2)
  end
  return finish_check(testing.counters(), fn(...))
end

-- Wrapping `it` --------------------------------------------------------------------------------

---What a wrapped test gets as its argument.
---@class concur.testing.Case
---@field clock? concur.Clock the virtual clock, nil with `clock = false`
local Case = {}
Case.__index = Case
Case.__name = "concur.testing.Case"

---Returns the errors that went to `on_error` so far, and forgets them: a test that does not take
---them fails. Each has `.error`, `.message` (where it comes from) and `.traceback`, or nil.
---@return {error: any, message: string, traceback: string?}[]
function Case:take_reports()
  local taken = self.reports
  self.reports = {}
  return taken
end

local function check_options(name, options, known)
  for key in pairs(options or {}) do
    if not known[key] then
      error(("%s: unknown option '%s'"):format(name, tostring(key)), 3)
    end
  end
end

local function report_text(report)
  return ("%s: %s"):format(report.message, errors.format(report.error, report.traceback))
end

-- Raises if the case holds errors that nobody asked about.
local function check_reports(case)
  local texts = {}
  for i, report in ipairs(case:take_reports()) do
    texts[i] = report_text(report)
  end
  if #texts > 0 then
    error("errors that nobody retrieved:\n" .. table.concat(texts, "\n"), 0)
  end
end

local RUN_OPTIONS = { clock = true, shuffle = true, on_error = true }

---Runs `body(case)` as the root task of a fresh run, and raises if it raises, if errors went to
---`on_error` that it did not take, or if it left something behind.
---
---`clock = false`: real time; otherwise the time is virtual. `shuffle`: ready tasks run in an order
---that depends on this integer. `on_error(e, traceback)` gets the errors that would make the run
---fail because the body did not take them.
---@param body fun(case: concur.testing.Case)
---@param options? {clock?: boolean, shuffle?: integer, on_error?: fun(e: any, traceback: string?)}
function testing.run(body, options)
  check_options("run", options, RUN_OPTIONS)
  options = options or {}
  local before = testing.counters()
  local case = setmetatable({ reports = {} }, Case)
  if options.clock ~= false then
    case.clock = testing.Clock()
  end
  do
    local runner <close> = concur.Runner {
      clock = case.clock,
      shuffle = options.shuffle,
      on_error = function(e, context)
        case.reports[#case.reports + 1] = {
          error = e,
          message = context.message,
          traceback = context.traceback,
        }
      end,
    }
    runner:run(body, case)
  end
  if options.on_error then
    for _, report in ipairs(case:take_reports()) do
      options.on_error(report.error, report.traceback)
    end
  end
  check_reports(case)
  finish_check(before)
end

---Wraps the `it` of busted: `local it = testing.wrap_it(it)`. The body of each test then runs as a
---task, on a virtual clock of its own, with a `Case` as its argument. The test fails if the body
---raises, if an error went to `on_error` that `case:take_reports()` did not take, or if a task,
---timer, handle, scope or job is left.
---
---The options are those of `testing.run`; `wrap_it(it, {clock = false})` runs on real time.
---@param it function `it(name, fn, ...)`
---@param options? {clock?: boolean, shuffle?: integer, on_error?: fun(e: any, traceback: string?)}
---@return fun(name: string, body: fun(case: concur.testing.Case), ...): any
function testing.wrap_it(it, options)
  check_options("wrap_it", options, RUN_OPTIONS)
  return function(name, body, ...)
    if body == nil then
      return it(name) -- a test that is only announced
    end
    -- A tail call: busted finds the file and line of its caller.
    return it(name, function()
      testing.run(body, options)
    end, ...)
  end
end

return testing
