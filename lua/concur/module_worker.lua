-- SPDX-License-Identifier: MIT
--
-- The worker's side of concur.module: calls functions of a module, and keeps the objects that they
-- return, since those cannot leave this state. module_proxy.lua calls what is here by name.
--
-- Results travel as: nil, results...; or, when some are objects, a table {[position] = type name}
-- first, and the object's number in the place of each.

local core = require "concur.core"

local M = {}

local objects = {} -- number -> object that a handle of the parent stands for
local numbers = {} -- object -> its number
local given = {} -- number -> how often it was given to the parent, less what came back
local last_number = 0

local SIMPLE = { ["nil"] = true, boolean = true, number = true, string = true }

-- The same object has the same number as long as the parent has a handle for it.
local function keep(object)
  local number = numbers[object]
  if not number then
    number = last_number + 1
    last_number = number
    objects[number], numbers[object], given[number] = object, number, 0
  end
  given[number] = given[number] + 1
  return number
end

local function type_name(object)
  local meta = getmetatable(object)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(name) == "string" and name or type(object)
end

-- Replaces what cannot cross by numbers.
local function give(...)
  local kept
  local values = table.pack(...)
  for i = 1, values.n do
    local value = values[i]
    if not SIMPLE[type(value)] and not pcall(core.encode, value) then
      kept = kept or {}
      kept[i] = type_name(value)
      values[i] = keep(value)
    end
  end
  return kept, table.unpack(values, 1, values.n)
end

-- Puts objects back into the places of their numbers.
local function restore(places, ...)
  if not places then
    return ...
  end
  local values = table.pack(...)
  for i in pairs(places) do
    values[i] = objects[values[i]]
  end
  return table.unpack(values, 1, values.n)
end

-- The value at a path ("a.b.c") in a module.
local function find(module, path)
  local value = require(module)
  for name in path:gmatch "[^.]+" do
    value = value[name]
  end
  return value
end

local function holds_functions(t)
  for _, value in pairs(t) do
    if type(value) == "function" or type(value) == "userdata" then
      return true
    end
  end
  return getmetatable(t) ~= nil
end

-- What a field of the module is: "function", "table" (one with functions in it), or "value", value.
function M.look(module, path)
  local value = find(module, path)
  local meta = type(value) ~= "function" and getmetatable(value)
  if type(value) == "function" or type(meta) == "table" and meta.__call then
    return "function"
  elseif type(value) == "table" and holds_functions(value) then
    return "table"
  end
  return "value", give(value)
end

function M.assign(module, path, value)
  local parent, name = path:match "^(.*)%.([^.]+)$"
  find(module, parent or "")[name or path] = value
end

function M.call(module, path, places, ...)
  return give(find(module, path)(restore(places, ...)))
end

function M.method(number, name, places, ...)
  local object = objects[number]
  return give(object[name](object, restore(places, ...)))
end

function M.invoke(number, places, ...)
  return give(objects[number](restore(places, ...)))
end

-- The parent's handle is gone, which stood for `count` times that the number was given. Closes the
-- object if it can be closed, or leaves it to the collector.
function M.release(number, count)
  given[number] = given[number] - count
  if given[number] > 0 then
    return
  end
  local object = objects[number]
  objects[number], numbers[object], given[number] = nil, nil, nil
  local meta = debug.getmetatable(object)
  local close = type(meta) == "table" and meta.__close
  if close then
    close(object)
  else
    object, meta, close = nil, nil, nil -- luacheck: ignore
    collectgarbage()
  end
end

return M
