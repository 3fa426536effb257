-- SPDX-License-Identifier: MIT
-- Whether two values are copies of each other: the same kinds of numbers, the same bytes, the same
-- shape with its cycles and shared parts, functions with the same code and upvalues, upvalues
-- shared by the same functions.
--
-- A table may have one table or function among its keys, not more: which belongs to which could
-- not be told.

-- The values that two copies of anything have in common.
local function is_scalar(value)
  local kind = type(value)
  return kind ~= "table" and kind ~= "function"
end

local function same_scalar(a, b)
  if math.type(a) ~= math.type(b) then
    return false
  elseif math.type(a) == "float" then
    -- Any NaN is one; 0.0 and -0.0 are not the same.
    return (a ~= a and b ~= b) or string.pack("d", a) == string.pack("d", b)
  end
  return rawequal(a, b)
end

-- A worklist instead of recursion: the values may be deep.
local function new_comparison()
  local comparison = { there = {}, back = {}, todo = {} }

  -- Are these two the same, as far as can be told without looking inside? What is inside is queued.
  function comparison.match(a, b, where)
    if is_scalar(a) or is_scalar(b) then
      if not same_scalar(a, b) then
        comparison.difference = ("%s: %s, %s"):format(where, tostring(a), tostring(b))
      end
    elseif type(a) ~= type(b) then
      comparison.difference = ("%s: a %s, a %s"):format(where, type(a), type(b))
    elseif comparison.there[a] == nil and comparison.back[b] == nil then
      comparison.there[a], comparison.back[b] = b, a
      table.insert(comparison.todo, { a, b, where })
    elseif not rawequal(comparison.there[a], b) then
      comparison.difference = where .. ": shared in one, not in the other"
    end
  end

  return comparison
end

local function match_tables(comparison, a, b, where)
  local object_key_a, object_key_b
  for key, value in next, a do
    if is_scalar(key) then
      comparison.match(value, rawget(b, key), where .. "." .. tostring(key))
    else
      object_key_a = key
    end
  end
  for key in next, b do
    if not is_scalar(key) then
      object_key_b = key
    elseif rawget(a, key) == nil then
      comparison.difference = where .. "." .. tostring(key) .. ": only in one"
    end
  end
  comparison.match(object_key_a, object_key_b, where .. "[object]")
  if object_key_a ~= nil and object_key_b ~= nil then
    comparison.match(a[object_key_a], b[object_key_b], where .. "[object]")
  end
end

local function match_functions(comparison, a, b, where)
  local is_c = debug.getinfo(a, "S").what == "C"
  if is_c or debug.getinfo(b, "S").what == "C" then
    if a ~= b then
      comparison.difference = where .. ": C functions differ"
    end
    return
  end
  if string.dump(a) ~= string.dump(b) then
    comparison.difference = where .. ": the code differs"
  end
  for i = 1, debug.getinfo(a, "u").nups do
    local name, value_a = debug.getupvalue(a, i)
    local _, value_b = debug.getupvalue(b, i)
    local place = where .. " upvalue " .. name
    if name == "_ENV" or rawequal(value_a, _G) then
      -- Not shared in the copy: each function gets the globals of its state.
      comparison.match(rawequal(value_b, _G), true, place)
    else
      local cell_a, cell_b = debug.upvalueid(a, i), debug.upvalueid(b, i)
      local known = comparison.there[cell_a]
      if known ~= nil and known ~= cell_b then
        comparison.difference = place .. ": shared in one, not in the other"
      end
      comparison.there[cell_a] = cell_b
      comparison.match(value_a, value_b, place)
    end
  end
end

---Compares two values and all that hangs from them.
---@return boolean same
---@return string? difference where they differ first
local function same(a, b)
  local comparison = new_comparison()
  comparison.match(a, b, "value")
  while #comparison.todo > 0 and not comparison.difference do
    local x, y, where = table.unpack(table.remove(comparison.todo))
    if not rawequal(x, y) then
      local match = type(x) == "table" and match_tables or match_functions
      match(comparison, x, y, where)
    end
  end
  return comparison.difference == nil, comparison.difference
end

return same
