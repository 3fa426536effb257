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
---@field code? string|integer `OSError`: "ECONNREFUSED"; `WorkerCrashed`: the exit code
---@field errno? integer `OSError`: the system's number
---@field call? string `OSError`: what was attempted, "connect" for example
---@field path? string `OSError`: the file; `TransferError`: which part could not cross
---@field address? string `OSError`: the address
---@field partial? string `IncompleteRead`: what had been read
---@field value? any `RemoteError`: what was raised in the worker
---@field remote_traceback? string where it was raised in the worker
---@field signal? string|integer `WorkerCrashed`: the signal that ended it
---@field stderr? string `WorkerCrashed`: the end of what it wrote to stderr
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
  Deadlock = true,
  Interrupted = true,
}

local LEAVES_IN_TEXT = 10 -- leaves of a group that tostring shows
local MAX_DEPTH = 50 -- nesting of groups that format shows

local metatable = core.error_metatable
metatable.__name = "concur.Error"
metatable.__index = Error

-- What getmetatable answers for an error: the metatable, or its __metatable field.
local visible_metatable = metatable.__metatable or metatable

local function is_error(e)
  return type(e) == "table" and rawequal(getmetatable(e), visible_metatable)
end

local function is_group(e)
  return is_error(e) and e.kind == "ErrorGroup" and type(rawget(e, "errors")) == "table"
end

local function group_size(group)
  return math.type(rawget(group, "n")) == "integer" and group.n or #group.errors
end

local function callable(x)
  if type(x) == "function" then
    return true
  end
  local mt = getmetatable(x)
  return type(mt) == "table" and type(rawget(mt, "__call")) == "function"
end

-- tostring, on values whose __tostring raises as well.
local function text_of(value)
  local ok, text = pcall(tostring, value)
  return ok and text or "a " .. type(value) .. " whose __tostring fails"
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

-- Iterates over e, its cause, the cause's cause, ...; stops at a loop.
local function chain(e)
  local current, started, seen = e, false, nil
  return function()
    if not started then
      started = true
      return true, current
    end
    if type(current) ~= "table" then
      return nil
    end
    seen = seen or {}
    seen[current] = true
    current = rawget(current, "cause")
    if current == nil or seen[current] then
      return nil
    end
    return true, current
  end
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
  for _, link in chain(e) do
    if is_error(link) and rawequal(rawget(link, "kind"), kind) then
      return true
    end
  end
  return false
end

-- Tracebacks ---------------------------------------------------------------------------------

-- Whether `path`, as a traceback shortens it, is a Lua file of this library.
local function is_own_file(path)
  local directory = path:match("^(.*[/\\]?concur[/\\])[%w_]+%.lua$")
  if not directory then
    return false
  end
  local own = debug.getinfo(1, "S").source:match("^@(.*[/\\])") or ""
  directory = directory:gsub("^%.%.%.", "")
  return own:sub(-#directory) == directory
end

-- The frames of a traceback that tell the reader something: not the call of error itself, not
-- the anonymous C functions at the bottom, not this library's own Lua files.
local function frames_of(traceback)
  local body = traceback:match("stack traceback:\n(.*)") or traceback
  local all, kept = {}, {}
  for line in body:gmatch("[^\n]+") do
    local frame = line:match("^%s*(.-)%s*$")
    frame = frame:gsub("'concur%.core%.", "'concur.") -- one function, found under two names
    if frame ~= "" then
      all[#all + 1] = frame
    end
  end
  for index, frame in ipairs(all) do
    local raising = index == 1
      and (frame == "[C]: in function 'error'" or frame == "[C]: in function 'assert'")
    local nameless = frame == "[C]: in ?" or frame:find("^%[C%]: in function <")
    local path = frame:match("^(.-):%d+: in ") or frame:match("^(.-): in ")
    if not raising and not nameless and not (path and is_own_file(path)) then
      kept[#kept + 1] = frame
    end
  end
  return #kept > 0 and kept or all
end

-- "main.lua:12", the innermost line of Lua code; nil if there is none.
local function location_of(traceback)
  if type(traceback) ~= "string" then
    return nil
  end
  for _, frame in ipairs(frames_of(traceback)) do
    local location = frame:match("^(.-:%d+): in ")
    if location then
      return location
    end
  end
  return nil
end

-- One error as text ----------------------------------------------------------------------------

local function os_error_text(e)
  local message = text_of(e.message)
  local code = e.code ~= nil and string.format("(%s)", text_of(e.code)) or ""
  if code ~= "" and message:sub(-#code) == code then
    return message -- made complete by whoever raised it
  end
  local where = e.path ~= nil and e.path or e.address
  local subject = {}
  subject[#subject + 1] = e.call ~= nil and text_of(e.call) or nil
  subject[#subject + 1] = where ~= nil and text_of(where) or nil
  local text = #subject > 0 and table.concat(subject, " ") .. ": " .. message or message
  return code ~= "" and text .. " " .. code or text
end

local function group_text(e)
  local n = group_size(e)
  local count = n == 1 and "1 error" or n .. " errors"
  local message = text_of(e.message)
  if message == "" or message == "nil" then
    return "ErrorGroup: " .. count
  end
  return string.format("ErrorGroup: %s (%s)", message, count)
end

-- The text of one error without its causes, leaves and traceback.
local function title_of(e)
  if not is_error(e) then
    return e == nil and "nil (an error without a value)" or text_of(e)
  elseif is_group(e) then
    return group_text(e)
  elseif e.kind == "OSError" then
    return os_error_text(e)
  end
  local message = e.message == nil and "" or text_of(e.message)
  if message == "" and e.reason ~= nil then
    message = text_of(e.reason)
  end
  if e.kind == "RemoteError" then
    return message -- the original text, position included
  end
  local kind = text_of(e.kind)
  return message == "" and kind or kind .. ": " .. message
end

-- `title_of`, with the line where it was raised if the text does not tell.
local function title_with_location(e, traceback)
  local title = title_of(e)
  local location = is_error(e) and location_of(rawget(e, "traceback") or traceback)
  if location and not title:find(location, 1, true) then
    title = string.format("%s (at %s)", title, location)
  end
  return title
end

local function task_name(group, index)
  local task = type(rawget(group, "tasks")) == "table" and rawget(group.tasks, index)
  if not task then
    return nil
  end
  local ok, name = pcall(function()
    return task:name()
  end)
  return ok and type(name) == "string" and name or nil
end

local function traceback_of(group, index)
  local list = rawget(group, "tracebacks")
  return type(list) == "table" and rawget(list, index) or nil
end

-- Leaves ---------------------------------------------------------------------------------------

-- Appends the leaves below `e` to `list` as {error, traceback, task}. `path` holds the groups
-- that lead here, so that a group that contains itself ends.
local function collect_leaves(e, traceback, task, list, path)
  if not is_group(e) then
    list[#list + 1] = { e, is_error(e) and rawget(e, "traceback") or traceback, task }
    return
  end
  if path[e] then
    return
  end
  path[e] = true
  local tasks = type(rawget(e, "tasks")) == "table" and e.tasks or {}
  for index = 1, group_size(e) do
    collect_leaves(e.errors[index], traceback_of(e, index), tasks[index], list, path)
  end
  path[e] = nil
end

---Iterates over the errors in a group and in the groups inside it, depth first:
---`for i, err, traceback, task in errors.leaves(e) do`. Any other value is its own only leaf.
---The traceback and the task are nil where they are not known.
---@param e any
---@return fun(): integer?, any, string?, concur.Task?
function errors.leaves(e)
  local list, index = {}, 0
  collect_leaves(e, nil, nil, list, {})
  return function()
    index = index + 1
    local leaf = list[index]
    if leaf then
      return index, leaf[1], leaf[2], leaf[3]
    end
  end
end

-- Splits `e`; `matches(leaf)` decides. Returns found, matching, found, rest: an error may be nil,
-- so each side has a flag.
local function split(e, matches, path)
  if not is_group(e) then
    if matches(e) then
      return true, e, false, nil
    end
    return false, nil, true, e
  end
  if path[e] then
    return false, nil, false, nil
  end
  path[e] = true
  local sides = { [true] = { n = 0 }, [false] = { n = 0 } }
  local whole = true -- no group below was taken apart
  local function put(side, value, index)
    local part = sides[side]
    part.n = part.n + 1
    part[part.n] = { value, index }
  end
  for index = 1, group_size(e) do
    local found, matching, left, rest = split(e.errors[index], matches, path)
    if found then
      put(true, matching, index)
    end
    if left then
      put(false, rest, index)
    end
    whole = whole and not (found and left)
  end
  path[e] = nil
  local function part_of(part, other)
    if part.n == 0 then
      return false, nil
    elseif other.n == 0 and whole then
      return true, e
    end
    local fields = {}
    for name, value in pairs(e) do
      fields[name] = value
    end
    fields.n, fields.errors, fields.tracebacks, fields.tasks = part.n, {}, {}, {}
    for index, entry in ipairs(part) do
      fields.errors[index] = entry[1]
      fields.tracebacks[index] = traceback_of(e, entry[2])
      fields.tasks[index] = type(e.tasks) == "table" and e.tasks[entry[2]] or nil
    end
    return true, setmetatable(fields, metatable)
  end
  local found, matching = part_of(sides[true], sides[false])
  local left, rest = part_of(sides[false], sides[true])
  return found, matching, left, rest
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
  local _, matching, _, rest = split(e, matches, {})
  return matching, rest
end

-- Errors as text -------------------------------------------------------------------------------

local function append(out, prefix, text)
  for line in (text .. "\n"):gmatch("(.-)\n") do
    out[#out + 1] = (prefix .. line):gsub("%s+$", "")
  end
end

local function append_traceback(out, prefix, heading, traceback)
  if type(traceback) ~= "string" then
    return
  end
  out[#out + 1] = prefix .. heading
  for _, frame in ipairs(frames_of(traceback)) do
    append(out, prefix .. "    ", frame)
  end
end

local render -- render and append_leaves call each other

local function append_leaves(out, prefix, group, shown, depth)
  local n = group_size(group)
  for index = 1, n do
    local name = task_name(group, index)
    local label = string.format("%s+- %d of %d", prefix, index, n)
    out[#out + 1] = name and string.format("%s, task '%s'", label, name) or label
    local inner = prefix .. (index < n and "|  " or "   ")
    render(out, inner, group.errors[index], traceback_of(group, index), shown, depth + 1)
  end
end

-- Appends everything about `e` and its causes to the list of lines `out`. `shown` remembers the
-- tables that were shown: each is shown once, so the output ends whatever points where.
function render(out, prefix, e, traceback, shown, depth)
  local heading = ""
  for _, link in chain(e) do
    local again = type(link) == "table" and shown[link]
    append(out, prefix, heading .. title_of(link) .. (again and " (shown above)" or ""))
    if again then
      return
    end
    if type(link) == "table" then
      shown[link] = true
    end
    if is_error(link) then
      local own = rawget(link, "traceback")
      append_traceback(out, prefix, "stack traceback:", own or traceback)
      append_traceback(out, prefix, "in the worker:", rawget(link, "remote_traceback"))
      local stderr = rawget(link, "stderr")
      if type(stderr) == "string" and stderr ~= "" then
        out[#out + 1] = prefix .. "stderr:"
        append(out, prefix .. "    ", (stderr:gsub("%s+$", "")))
      end
      if is_group(link) then
        if depth >= MAX_DEPTH then
          out[#out + 1] = prefix .. "+- ... (groups inside it are left out)"
        else
          append_leaves(out, prefix, link, shown, depth)
        end
      end
    else
      append_traceback(out, prefix, "stack traceback:", traceback)
    end
    heading, traceback = "caused by: ", nil
  end
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
  local out = {}
  render(out, "", e, traceback, {}, 0)
  return table.concat(out, "\n")
end

-- `lua5.4` prints this of an uncaught error, and no traceback: so it says where as well.
function metatable.__tostring(e)
  if not is_group(e) then
    return title_with_location(e)
  end
  local out, count = { title_of(e) }, 0
  for _, leaf, traceback in errors.leaves(e) do
    count = count + 1
    if count <= LEAVES_IN_TEXT then
      local first_line = title_with_location(leaf, traceback):match("^[^\n]*")
      out[#out + 1] = string.format("  [%d] %s", count, first_line)
    end
  end
  if count > LEAVES_IN_TEXT then
    out[#out + 1] = string.format("  ... and %d more", count - LEAVES_IN_TEXT)
  end
  return table.concat(out, "\n")
end

-- `"cannot connect: " .. err` works as it does with the strings that Lua's own io returns.
function metatable.__concat(a, b)
  return text_of(a) .. text_of(b)
end

-- Handling -------------------------------------------------------------------------------------

-- The kind under which `handlers` handles `e`: its own if there is a handler for it, else that of
-- the nearest cause. Cancelled is for its own handler only, whatever caused it.
local function handled_kind(handlers, e)
  if is_error(e) and e.kind == "Cancelled" then
    return handlers.Cancelled and "Cancelled" or nil
  end
  for _, link in chain(e) do
    local kind = is_error(link) and rawget(link, "kind")
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
    elseif is_error(e) and e.kind == "Cancelled" then
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
  if is_group(e) then
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
