-- SPDX-License-Identifier: MIT
-- Expectations about errors, shared by the specs of structured concurrency and synchronisation.
-- They catch with Lua's own pcall, so `Cancelled` is an error like any other here.

local errors = require "concur.errors"

local expect = {}

local function describe(e)
  return errors.format(e)
end

---Calls `fn(...)`, which must raise a library error of exactly this kind; returns the error.
---@async
---@param kind string
---@param fn function
---@return concur.Error
function expect.error(kind, fn, ...)
  local ok, e = pcall(fn, ...)
  if ok then
    error(("%s was expected, but nothing was raised"):format(kind), 2)
  elseif type(e) ~= "table" or e.kind ~= kind then
    error(("%s was expected, but this was raised:\n%s"):format(kind, describe(e)), 2)
  end
  return e
end

---Calls `fn(...)`, which must raise a value whose text contains `text` (no pattern); returns it.
---@async
---@param text string
---@param fn function
---@return any
function expect.message(text, fn, ...)
  local ok, e = pcall(fn, ...)
  if ok then
    error(("an error with '%s' was expected, but nothing was raised"):format(text), 2)
  elseif not tostring(e):find(text, 1, true) then
    error(("an error with '%s' was expected, but this was raised:\n%s"):format(text,
      describe(e)), 2)
  end
  return e
end

---Calls `fn(...)`, which must raise exactly this value.
---@async
---@param value any
---@param fn function
function expect.same_error(value, fn, ...)
  local ok, e = pcall(fn, ...)
  if ok then
    error("an error was expected, but nothing was raised", 2)
  elseif not rawequal(e, value) then
    error(("another error was expected than this:\n%s"):format(describe(e)), 2)
  end
end

---Calls `fn(...)`, which must raise an `ErrorGroup` of exactly these errors, in any order: each is
---compared as a raw value, or by its kind when `leaves[i]` is {kind = "..."} itself.
---@async
---@param leaves any[]
---@param fn function
---@return concur.Error
function expect.group(leaves, fn, ...)
  local group = expect.error("ErrorGroup", fn, ...)
  local left = table.move(leaves, 1, #leaves, 1, {})
  local function take(e)
    for i, wanted in ipairs(left) do
      local by_kind = type(wanted) == "table" and getmetatable(wanted) == nil and wanted.kind
      if rawequal(e, wanted) or by_kind and type(e) == "table" and e.kind == by_kind then
        table.remove(left, i)
        return
      end
    end
    error("an error in the group was not expected:\n" .. describe(group), 3)
  end
  for i = 1, group.n do
    take(group.errors[i])
  end
  if #left > 0 then
    error(("%d expected errors are not in the group:\n%s"):format(#left, describe(group)), 2)
  end
  return group
end

---An object for `<close>` that counts how often it was closed, in `.closed`, and keeps the error
---it was closed with in `.error`. `on_close` (it may suspend) runs inside.
---@param on_close? function
function expect.guard(on_close)
  return setmetatable({ closed = 0 }, {
    __close = function(self, e)
      self.closed = self.closed + 1
      self.error = e
      if on_close then
        on_close(e)
      end
    end,
  })
end

return expect
