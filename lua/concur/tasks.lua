-- Parts of the task API that are said best in Lua: async, wait, as_completed, group:start.
local core = require "concur.core"
local bad_argument = require("concur.arguments").bad

local M = {}

local function is_callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__call ~= nil
end

--[[@lua
---A function that, called, starts `fn` as a task and returns it.
---@param fn function
---@return fun(...): concur.Task
function concur.async(fn) end
]]
function M.async(fn)
  if not is_callable(fn) then bad_argument(1, "async", "function expected, got " .. type(fn)) end
  local spawn = core.spawn
  return function(...) return spawn(fn, ...) end
end

-- Checks the options of wait and as_completed; returns the deadline or nil.
local function deadline_of(name, options, allowed)
  if options == nil then return nil end
  if type(options) ~= "table" then
    bad_argument(2, name, "table of options expected, got %s", type(options))
  end
  for key in pairs(options) do
    if not allowed[key] then
      bad_argument(2, name, "unknown option '%s'", tostring(key))
    end
  end
  local timeout = options.timeout
  if timeout == nil then return nil end
  if type(timeout) ~= "number" or timeout ~= timeout then
    bad_argument(2, name, "option 'timeout' must be a number of seconds")
  end
  return core.now() + math.max(timeout, 0)
end

local return_when = {
  all = function() return false end,
  first = function() return true end,
  first_error = function(future) return future:state() == "failed" or future:cancelled() end,
}
local wait_options = { return_when = true, timeout = true }

--[[@lua
---Waits for the futures of a list and returns those that have settled and those that have not; the
---same handles.  Cancels nothing, raises no error of theirs.
---@async
---@param futures concur.Future[]
---@param options? {return_when?: "all"|"first"|"first_error", timeout?: number} timeout in seconds
---@return concur.Future[] done
---@return concur.Future[] pending
function concur.wait(futures, options) end
]]
function M.wait(futures, options)
  if type(futures) ~= "table" then
    bad_argument(1, "wait", "list of futures expected, got " .. type(futures))
  end
  local deadline = deadline_of("wait", options, wait_options)
  local when = options and options.return_when or "all"
  local enough = return_when[when]
  if not enough then
    bad_argument(2, "wait", "option 'return_when' must be \"all\", \"first\" or \"first_error\"")
  end
  local watch = core.watch(futures)
  local seen = {}
  repeat
    local future = watch:next(deadline)
    if future then seen[future] = true end
  until not future or enough(future)
  watch:close()
  local done, pending, listed = {}, {}, {}
  for _, future in ipairs(futures) do
    if not listed[future] then
      listed[future] = true
      local list = (seen[future] or future:done()) and done or pending
      list[#list + 1] = future
    end
  end
  return done, pending
end

local as_completed_options = { timeout = true }

--[[@lua
---Iterates over the futures of a list in the order in which they settle: the same handles, each
---once.  May be left with `break` and gone on with later.  Cancels nothing.
---The iterator suspends; it raises `TimeoutError` when `timeout` is over.
---@param futures concur.Future[]
---@param options? {timeout?: number} seconds for all of them
---@return fun(): concur.Future?
function concur.as_completed(futures, options) end
]]
function M.as_completed(futures, options)
  if type(futures) ~= "table" then
    bad_argument(1, "as_completed", "list of futures expected, got " .. type(futures))
  end
  local deadline = deadline_of("as_completed", options, as_completed_options)
  local watch = core.watch(futures)
  return function()
    local future, timed_out = watch:next(deadline)
    if timed_out then
      error(require("concur.errors").new("TimeoutError",
        ("%d futures were not done in time"):format(watch:left())), 2)
    end
    return future
  end
end

--[[@lua
---Starts `fn(started, ...)` as a task of the group and waits until it calls `started(...)`; returns
---those values.  If it fails before, its error is raised here; if it returns before, `InvalidState`.
---@async
---@param fn fun(started: fun(...), ...)
---@param ... any
---@return any ...
function TaskGroup:start(fn, ...) end
]]
function M.group_start(group, fn, ...)
  if not is_callable(fn) then bad_argument(1, "start", "function expected, got " .. type(fn)) end
  local errors = require "concur.errors"
  local ready = core.Future()
  local function started(...)
    if not ready:set_result(...) then
      error(errors.new("InvalidState", "started() was called twice, or nobody waits for it"), 2)
    end
  end
  local child = group:spawn(function(...)
    local results = table.pack(xpcall(fn, core.traceback_handler, started, ...))
    if results[1] then
      ready:set_exception(errors.new("InvalidState",
        "the task given to group:start() ended without calling started()"))
      ready:exception() -- whoever waits raises it; nobody else has to
      return table.unpack(results, 2, results.n)
    end
    local err = results[2]
    if errors.is(err, "Cancelled") then
      ready:cancel()
    elseif ready:set_exception(err) then
      ready:exception()
      return -- start() raises it
    end
    core.rethrow(err)
  end, ...)
  local results = table.pack(pcall(ready.result, ready))
  if results[1] then return table.unpack(results, 2, results.n) end
  -- Not started: whatever the reason, the task has ended when this function is left.
  ready:cancel()
  child:cancel()
  core.shield(pcall, child.result, child)
  core.rethrow(results[2])
end

return M
