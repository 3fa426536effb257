-- SPDX-License-Identifier: MIT
--
-- Errors as text: one line, or everything about them.
--
-- Loaded when the first error is printed. Safe on any value, see error_tree.lua; what is shown is
-- shown once, so the output ends whatever points where.

local tree = require "concur.error_tree"

local text = {}

local is_error, is_group, group_size = tree.is_error, tree.is_group, tree.group_size

local LEAVES_IN_TEXT = 10 -- leaves of a group that tostring shows
local MAX_DEPTH = 50 -- nesting of groups that format shows

-- tostring, on values whose __tostring raises as well.
function text.of(value)
  local ok, result = pcall(tostring, value)
  return ok and result or "a " .. type(value) .. " whose __tostring fails"
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
  local message = text.of(e.message)
  local code = e.code ~= nil and string.format("(%s)", text.of(e.code)) or ""
  if code ~= "" and message:sub(-#code) == code then
    return message -- made complete by whoever raised it
  end
  local where = e.path ~= nil and e.path or e.address
  local subject = {}
  subject[#subject + 1] = e.call ~= nil and text.of(e.call) or nil
  subject[#subject + 1] = where ~= nil and text.of(where) or nil
  local line = #subject > 0 and table.concat(subject, " ") .. ": " .. message or message
  return code ~= "" and line .. " " .. code or line
end

local function group_text(e)
  local n = group_size(e)
  local count = n == 1 and "1 error" or n .. " errors"
  local message = text.of(e.message)
  if message == "" or message == "nil" then
    return "ErrorGroup: " .. count
  end
  return string.format("ErrorGroup: %s (%s)", message, count)
end

-- The text of one error without its causes, leaves and traceback.
local function title_of(e)
  if not is_error(e) then
    return e == nil and "nil (an error without a value)" or text.of(e)
  elseif is_group(e) then
    return group_text(e)
  elseif e.kind == "OSError" then
    return os_error_text(e)
  end
  local message = e.message == nil and "" or text.of(e.message)
  if message == "" and e.reason ~= nil then
    message = text.of(e.reason)
  end
  if e.kind == "RemoteError" then
    return message -- the original text, position included
  end
  local kind = text.of(e.kind)
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

-- Everything about an error ---------------------------------------------------------------------

local function append(out, prefix, block)
  for line in (block .. "\n"):gmatch("(.-)\n") do
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
    render(out, inner, group.errors[index], tree.traceback_of(group, index), shown, depth + 1)
  end
end

-- Appends everything about `e` and its causes to the list of lines `out`. `shown` remembers the
-- tables that were shown: each is shown once, so the output ends whatever points where.
function render(out, prefix, e, traceback, shown, depth)
  local heading = ""
  for _, link in tree.chain(e) do
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

-- Everything about `e` as several lines, without a newline at the end.
function text.everything(e, traceback)
  local out = {}
  render(out, "", e, traceback, {}, 0)
  return table.concat(out, "\n")
end

-- What tostring gives. `lua5.4` prints this of an uncaught error, and no traceback: so it says
-- where as well.
function text.summary(e)
  if not is_group(e) then
    return title_with_location(e)
  end
  local out, leaves = { title_of(e) }, tree.leaves(e)
  for index = 1, math.min(#leaves, LEAVES_IN_TEXT) do
    local leaf, traceback = leaves[index][1], leaves[index][2]
    local first_line = title_with_location(leaf, traceback):match("^[^\n]*")
    out[#out + 1] = string.format("  [%d] %s", index, first_line)
  end
  if #leaves > LEAVES_IN_TEXT then
    out[#out + 1] = string.format("  ... and %d more", #leaves - LEAVES_IN_TEXT)
  end
  return table.concat(out, "\n")
end

return text
