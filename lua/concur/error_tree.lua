-- SPDX-License-Identifier: MIT
--
-- The shape of errors: which values are errors, what hangs below them, how a group comes apart.
--
-- Safe on any value. Chains of causes and groups may be loops, and fields may have been changed
-- by whoever held the error, so fields are read raw and checked.

local core = require "concur.core"

local tree = {}

local metatable = core.error_metatable

-- What getmetatable answers for an error: the metatable, or its __metatable field.
local visible_metatable = metatable.__metatable or metatable

function tree.is_error(e)
  return type(e) == "table" and rawequal(getmetatable(e), visible_metatable)
end

function tree.is_group(e)
  return tree.is_error(e) and e.kind == "ErrorGroup" and type(rawget(e, "errors")) == "table"
end

function tree.group_size(group)
  return math.type(rawget(group, "n")) == "integer" and group.n or #group.errors
end

-- Iterates over e, its cause, the cause's cause, ...; stops at a loop.
function tree.chain(e)
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

function tree.traceback_of(group, index)
  local list = rawget(group, "tracebacks")
  return type(list) == "table" and rawget(list, index) or nil
end

-- Appends the leaves below `e` to `list` as {error, traceback, task}. `path` holds the groups
-- that lead here, so that a group that contains itself ends.
local function collect_leaves(e, traceback, task, list, path)
  if not tree.is_group(e) then
    list[#list + 1] = { e, tree.is_error(e) and rawget(e, "traceback") or traceback, task }
    return
  end
  if path[e] then
    return
  end
  path[e] = true
  local tasks = type(rawget(e, "tasks")) == "table" and e.tasks or {}
  for index = 1, tree.group_size(e) do
    collect_leaves(e.errors[index], tree.traceback_of(e, index), tasks[index], list, path)
  end
  path[e] = nil
end

-- The leaves below `e` as a list of {error, traceback, task}; any other value is its own leaf.
function tree.leaves(e)
  local list = {}
  collect_leaves(e, nil, nil, list, {})
  return list
end

-- A group like `e` that holds `part`, a list of {error, index of the error in e that it is from}.
local function group_like(e, part)
  local fields = {}
  for name, value in pairs(e) do
    fields[name] = value
  end
  fields.n, fields.errors, fields.tracebacks, fields.tasks = part.n, {}, {}, {}
  for position = 1, part.n do
    local child, index = part[position][1], part[position][2]
    fields.errors[position] = child
    fields.tracebacks[position] = tree.traceback_of(e, index)
    fields.tasks[position] = type(e.tasks) == "table" and e.tasks[index] or nil
  end
  return setmetatable(fields, metatable)
end

-- Splits `e`; `matches(leaf)` decides. Returns found, matching, left, rest: an error may be nil,
-- so each side has a flag. `path` as above.
local function split(e, matches, path)
  if not tree.is_group(e) then
    if matches(e) then
      return true, e, false, nil
    end
    return false, nil, true, e
  elseif path[e] then
    return false, nil, false, nil
  end
  path[e] = true
  local yes, no = { n = 0 }, { n = 0 }
  local whole = true -- no group below was taken apart
  local function put(part, value, index)
    part.n = part.n + 1
    part[part.n] = { value, index }
  end
  for index = 1, tree.group_size(e) do
    local found, matching, left, rest = split(e.errors[index], matches, path)
    if found then
      put(yes, matching, index)
    end
    if left then
      put(no, rest, index)
    end
    whole = whole and not (found and left)
  end
  path[e] = nil
  if whole and no.n == 0 and yes.n > 0 then
    return true, e, false, nil
  elseif whole and yes.n == 0 and no.n > 0 then
    return false, nil, true, e
  end
  local matching = yes.n > 0 and group_like(e, yes) or nil
  local rest = no.n > 0 and group_like(e, no) or nil
  return yes.n > 0, matching, no.n > 0, rest
end

-- The part of `e` whose leaves match, and the rest; nil where there is none.
function tree.split(e, matches)
  local _, matching, _, rest = split(e, matches, {})
  return matching, rest
end

return tree
