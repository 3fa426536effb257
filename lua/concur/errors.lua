-- SPDX-License-Identifier: MIT
--
-- Error objects: how they are made, told apart, taken apart and shown.
--
-- A library error is a plain table {kind=, message=, traceback=, cause=, ...}
-- with one metatable that the C core shares with this file. The core makes
-- errors without this file; it is loaded when the first one is made in Lua or
-- looked at, so loading it does no work beyond defining functions.
--
-- Everything here is safe on any value: an error can be a string, nil, or a
-- user's own table whose metamethods raise, and chains of causes may be loops.

local core = require "concur.core"
local tree = require "concur.error_tree"

---Error objects, and functions that look at them.
---@class concur.errors
local errors = {}

---An error of the library: a plain table that can be raised, returned and read.
---@class concur.Error
---@field kind string one of the kinds in the reference, "TimeoutError" for example
---@field message string what happened, in words
---@field traceback? string where it was raised first; absent on errors that were only returned
---@field cause? any the error that led to this one
---@field reason? any `Cancelled`, `FutureCancelled`: what was given to `cancel`
---@field future? concur.Future `TimeoutError`: what was waited for
---@field n? integer `ErrorGroup`: how many errors it holds
---@field errors? any[] `ErrorGroup`: the errors, [1] to [n]
---@field tracebacks? table<integer, string> `ErrorGroup`: where each was raised
---@field tasks? table<integer, concur.Task> `ErrorGroup`: the task that each came from
---@field code? string|integer `OSError`: "ECONNREFUSED"; `WorkerCrashed`, `ProcessError`: the exit code
---@field errno? integer `OSError`: the system's number
---@field call? string `OSError`: what was attempted, "connect" for example
---@field path? string `OSError`: the file; `TransferError`: which part could not cross
---@field address? string `OSError`: the address
---@field partial? string `IncompleteRead`: what had been read
---@field value? any `RemoteError`: what was raised in the worker
---@field remote_traceback? string where it was raised in the worker
---@field signal? string|integer `WorkerCrashed`, `ProcessError`: the signal that ended it
---@field stdout? string `ProcessError`: what it wrote to stdout
---@field stderr? string `WorkerCrashed`: the end of what it wrote to stderr; `ProcessError`: all
local Error = {}

local KINDS = {
  Cancelled = true,
  FutureCancelled = true,
  TimeoutError = true,
  InvalidState = true,
  ErrorGroup = true,
  OSError = true,
  Closed = true,
  WouldBlock = true,
  IncompleteRead = true,
  LimitOverrun = true,
  TransferError = true,
  RemoteError = true,
  BrokenExecutor = true,
  WorkerCrashed = true,
  ProcessError = true,
  Deadlock = true,
  Interrupted = true,
}

local metatable = core.error_metatable
metatable.__name = "concur.Error"
metatable.__index = Error

local function callable(x)
  if type(x) == "function" then
    return true
  end
  local mt = debug.getmetatable(x) -- a class may protect its metatable
  return type(mt) == "table" and rawget(mt, "__call") ~= nil
end

-- Raises, at the caller's caller, if `kind` is not a kind.
local function check_kind(kind, what)
  if KINDS[kind] then
    return
  end
  local hint = ""
  if type(kind) == "string" then
    for known in pairs(KINDS) do
      if known:lower():gsub("error$", "") == kind:lower():gsub("error$", "") then
        hint = string.format(" (did you mean '%s'?)", known)
      end
    end
    kind = "'" .. kind .. "'"
  else
    kind = "a " .. type(kind)
  end
  error(string.format("%s: unknown error kind %s%s", what, kind, hint), 3)
end

---Makes a library error, without raising it: `error(errors.new("Closed", "queue is closed"))`.
---Raises on an unknown kind.
---@param kind string one of the kinds in the reference
---@param message? string what happened, in words
---@param fields? table more fields, `cause` for example; copied
---@return concur.Error
function errors.new(kind, message, fields)
  check_kind(kind, "errors.new")
  if message ~= nil and type(message) ~= "string" then
    error("bad argument #2 to 'new' (string expected, got " .. type(message) .. ")", 2)
  end
  local e = {}
  if fields ~= nil then
    if type(fields) ~= "table" then
      error("bad argument #3 to 'new' (table expected, got " .. type(fields) .. ")", 2)
    end
    for name, value in pairs(fields) do
      e[name] = value
    end
  end
  e.kind = kind
  e.message = message or ""
  if kind == "ErrorGroup" then
    if type(e.errors) ~= "table" then
      error("errors.new: an ErrorGroup needs the field 'errors', a list", 2)
    end
    e.n = e.n or #e.errors
    e.tracebacks = e.tracebacks or {}
    e.tasks = e.tasks or {}
  end
  return setmetatable(e, metatable)
end

---Whether `e` is a library error of this kind, or was caused by one.
---Safe on any `e`; follows `cause` (also through tables that are not the library's own), not the
---errors inside an `ErrorGroup`. Raises on an unknown kind.
---@param e any
---@param kind string
---@return boolean
function errors.is(e, kind)
  check_kind(kind, "errors.is")
  for _, link in tree.chain(e) do
    if tree.is_error(link) and rawequal(rawget(link, "kind"), kind) then
      return true
    end
  end
  return false
end

-- Groups and text -----------------------------------------------------------------------------

---Iterates over the errors in a group and in the groups inside it, depth first:
---`for i, err, traceback, task in errors.leaves(e) do`. Any other value is its own only leaf.
---The traceback and the task are nil where they are not known.
---@param e any
---@return fun(): integer?, any, string?, concur.Task?
function errors.leaves(e)
  local list, index = tree.leaves(e), 0
  return function()
    index = index + 1
    local leaf = list[index]
    if leaf then
      return index, leaf[1], leaf[2], leaf[3]
    end
  end
end

---Splits a group in two by its leaves: a group of those that match, and a group of the others.
---Nested groups keep their place, message and traceback; a side without leaves is nil; a side with
---all of them is the group itself. An error that is no group is a leaf.
---Raises what `pred` raises, and on an unknown kind.
---@param e any
---@param pred string|fun(leaf: any): any a kind (as `errors.is` understands it) or a function
---@return any matching
---@return any rest
function errors.split(e, pred)
  local matches = pred
  if type(pred) == "string" then
    check_kind(pred, "errors.split")
    matches = function(leaf)
      return errors.is(leaf, pred)
    end
  elseif not callable(pred) then
    error("bad argument #2 to 'split' (kind or function expected, got " .. type(pred) .. ")", 2)
  end
  return tree.split(e, matches)
end

---Everything about an error as text of several lines: message, traceback, causes, and for a group
---a tree of its errors with the traceback of each. No newline at the end. Takes any value.
---@param e any
---@param traceback? string used for an error that carries none, a string for example
---@return string
function errors.format(e, traceback)
  if traceback ~= nil and type(traceback) ~= "string" then
    error("bad argument #2 to 'format' (string expected, got " .. type(traceback) .. ")", 2)
  end
  return require("concur.error_text").everything(e, traceback)
end

function metatable.__tostring(e)
  return require("concur.error_text").summary(e)
end

-- `"cannot connect: " .. err` works as it does with the strings that Lua's own io returns.
function metatable.__concat(a, b)
  local text = require "concur.error_text"
  return text.of(a) .. text.of(b)
end

-- Handling -------------------------------------------------------------------------------------

-- The kind under which `handlers` handles `e`: its own if there is a handler for it, else that of
-- the nearest cause. Cancelled is for its own handler only, whatever caused it.
local function handled_kind(handlers, e)
  if tree.is_error(e) and e.kind == "Cancelled" then
    return handlers.Cancelled and "Cancelled" or nil
  end
  for _, link in tree.chain(e) do
    local kind = tree.is_error(link) and rawget(link, "kind")
    if kind and kind ~= "Cancelled" and handlers[kind] then
      return kind
    end
  end
  return nil
end

-- Calls the handlers whose kinds are in the group, in the order of their first leaf. What they
-- raise, and what none of them took, is raised at the end; real errors go before Cancelled.
local function catch_group(handlers, group)
  local order, seen = {}, {}
  local function kind_of(leaf)
    return handled_kind(handlers, leaf) or handlers.ErrorGroup and "ErrorGroup" or false
  end
  for _, leaf in errors.leaves(group) do
    local kind = kind_of(leaf)
    if kind and not seen[kind] then
      seen[kind] = true
      order[#order + 1] = kind
    end
  end
  if #order == 0 then
    core.rethrow(group)
  end
  local results, cancelled
  local raised = { n = 0, errors = {} }
  for _, kind in ipairs(order) do
    local part = errors.split(group, function(leaf)
      return kind_of(leaf) == kind
    end)
    local outcome = table.pack(xpcall(handlers[kind], core.traceback_handler, part))
    local e = outcome[2]
    if outcome[1] then
      results = results or outcome
    elseif rawequal(e, part) then
      seen[kind] = nil -- raised again: not handled
    elseif tree.is_error(e) and e.kind == "Cancelled" then
      cancelled = e
    else
      raised.n = raised.n + 1
      raised.errors[raised.n] = e
    end
  end
  local _, rest = errors.split(group, function(leaf)
    return seen[kind_of(leaf)]
  end)
  if rest ~= nil and raised.n > 0 then
    raised.n = raised.n + 1
    raised.errors[raised.n] = rest
    rest = nil
  end
  if raised.n > 1 then
    error(errors.new("ErrorGroup", "while errors were handled", raised), 0)
  elseif raised.n == 1 then
    core.rethrow(raised.errors[1])
  elseif rest ~= nil then
    core.rethrow(rest)
  elseif cancelled then
    core.rethrow(cancelled)
  end
  return table.unpack(results, 2, results.n)
end

local function finish(handlers, ok, ...)
  if ok then
    return ...
  end
  local e = ...
  if tree.is_group(e) then
    return catch_group(handlers, e)
  end
  local kind = handled_kind(handlers, e)
  if not kind then
    core.rethrow(e) -- keeps its first traceback
  end
  return handlers[kind](e)
end

---Calls `fn(...)` and handles the errors that it raises by their kind, in a group as well.
---`fn` and the handlers may suspend.
---
---No error: returns what `fn` returned. A single error goes to the handler of its kind, or of its
---nearest cause that has one; the results are the handler's. Of an `ErrorGroup` each handler gets
---a group of the errors of its kind, and all that match run; the results are those of the first.
---A handler for `ErrorGroup` gets those that no other handler takes. What no handler takes, or a
---handler raises, is raised; several such errors as one `ErrorGroup`. `Cancelled` is caught only
---by a handler named so, which should raise it again: its scope goes on being cancelled.
---@async
---@param fn function
---@param handlers table<string, fun(e: concur.Error): ...> keys are kinds
---@param ... any arguments of `fn`
---@return any ...
function errors.catch(fn, handlers, ...)
  if not callable(fn) then
    error("bad argument #1 to 'catch' (function expected, got " .. type(fn) .. ")", 2)
  elseif type(handlers) ~= "table" then
    error("bad argument #2 to 'catch' (table expected, got " .. type(handlers) .. ")", 2)
  end
  for kind, handler in pairs(handlers) do
    check_kind(kind, "errors.catch")
    if not callable(handler) then
      local message = "errors.catch: handler for '%s' is a %s, not a function"
      error(message:format(kind, type(handler)), 2)
    end
  end
  return finish(handlers, xpcall(fn, core.traceback_handler, ...))
end

-- Methods --------------------------------------------------------------------------------------

---The same as `errors.is(e, kind)`.
---@param kind string
---@return boolean
function Error:is(kind)
  check_kind(kind, "is")
  return errors.is(self, kind)
end

---The same as `errors.format(e, traceback)`.
---@param traceback? string
---@return string
function Error:format(traceback)
  return errors.format(self, traceback)
end

return errors
