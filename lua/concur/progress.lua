-- SPDX-License-Identifier: MIT
--
-- A progress bar around any iterator.
--
-- The bar holds no task and no timer: it is drawn when an item comes out, at most every
-- `interval` seconds, and by what ends the loop. One line of the terminal belongs to it until
-- then; it is written whole, in one call, so that other output can at worst end up beside it.

local core = require "concur.core"

local OPTIONS = {
  total = "integer",
  label = "string",
  unit = "string",
  output = "any",
  enabled = "boolean",
  width = "integer",
  interval = "number",
  leave = "boolean",
  ascii = "boolean",
  clock = "function",
}

local ERASE = "\r\27[K"
local MIN_BAR = 5 -- columns; with less room there is no bar, only figures
local MAX_BAR = 40
local FALLBACK_WIDTH = 80 -- columns, where the terminal does not tell

local Progress = {}
Progress.__index = Progress
Progress.__name = "concur.progress"

-- Columns of the terminal behind `output`; nil if it is none.
local function terminal_width(output)
  if output == io.stderr then
    return core.terminal_width(2)
  elseif output == io.stdout then
    return core.terminal_width(1)
  end
  return nil
end

local function locale_is_utf8()
  for _, name in ipairs { "LC_ALL", "LC_CTYPE", "LANG" } do
    local value = os.getenv(name)
    if value and value ~= "" then
      return value:lower():find("utf%-?8") ~= nil
    end
  end
  return false
end

-- Figures -------------------------------------------------------------------------------------

-- 75 -> "1:15", 3700 -> "1:01:40".
local function format_time(seconds)
  if seconds ~= seconds or seconds >= 360000 then
    return "-:--"
  end
  local whole = math.floor(seconds + 0.5)
  local hours, minutes = whole // 3600, whole % 3600 // 60
  if hours > 0 then
    return string.format("%d:%02d:%02d", hours, minutes, whole % 60)
  end
  return string.format("%d:%02d", minutes, whole % 60)
end

local function format_rate(rate, unit)
  local scales = { { 1e9, "G" }, { 1e6, "M" }, { 1e3, "k" } }
  local suffix = unit ~= "" and " " .. unit .. "/s" or "/s"
  for _, scale in ipairs(scales) do
    if rate >= scale[1] then
      return string.format("%.1f%s%s", rate / scale[1], scale[2], suffix)
    end
  end
  return string.format(rate >= 100 and "%.0f%s" or "%.1f%s", rate, suffix)
end

-- Eighths of a column are drawn with Unicode's block elements U+2589 (7/8) to U+258F (1/8).
local function draw_bar(fraction, columns, ascii)
  if ascii then
    local full = math.floor(fraction * columns)
    return "[" .. ("#"):rep(full) .. ("."):rep(columns - full) .. "]"
  end
  local eighths = math.floor(fraction * columns * 8)
  local full, part = eighths // 8, eighths % 8
  local bar = ("\u{2588}"):rep(full)
  if part > 0 then
    bar = bar .. utf8.char(0x2590 - part)
  end
  local rest = columns - full - (part > 0 and 1 or 0)
  return "\u{2595}" .. bar .. (" "):rep(rest) .. "\u{258F}"
end

local function columns_of(text)
  return utf8.len(text) or #text
end

local function cut(text, columns)
  if columns_of(text) <= columns then
    return text
  elseif columns <= 0 then
    return ""
  elseif not utf8.len(text) then
    return text:sub(1, columns)
  end
  return text:sub(1, utf8.offset(text, columns + 1) - 1)
end

-- Columns for the figures beside the bar: room for the longest that are likely, so that the bar
-- keeps its length while they change.
local function usual_figures(total, unit)
  local count, rate, eta = 2 * #tostring(total) + 1, 8 + columns_of(unit), 8
  return 4 + 1 + count + 1 + rate + 1 + eta
end

-- The line as it stands now, less than `width` columns: the last column stays free, because
-- some terminals wrap as soon as it is written.
local function line_of(self, now, width)
  local elapsed = math.max(now - self.started, 0)
  local rate = elapsed > 0 and self.count / elapsed or 0
  local parts = {}
  local fraction
  if self.total then
    fraction = self.total > 0 and math.min(self.count / self.total, 1) or 1
    parts[1] = string.format("%3d%%", math.floor(fraction * 100))
    parts[2] = string.format("%d/%d", self.count, self.total)
  else
    parts[1] = tostring(self.count)
  end
  if rate > 0 then
    parts[#parts + 1] = format_rate(rate, self.unit)
  end
  if not fraction or fraction >= 1 then
    parts[#parts + 1] = format_time(elapsed)
  elseif rate > 0 then
    parts[#parts + 1] = "ETA " .. format_time((self.total - self.count) / rate)
  end
  local label = self.label ~= "" and self.label .. " " or ""
  if fraction then
    self.figures = math.max(self.figures, columns_of(table.concat(parts, " ")))
    local frame = 3 -- the bar's two ends and a space
    local room = math.min(width - 1 - columns_of(label) - self.figures - frame, MAX_BAR)
    if room >= MIN_BAR then
      table.insert(parts, 2, draw_bar(fraction, room, self.ascii))
    end
  end
  return cut(label .. table.concat(parts, " "), width - 1)
end

-- The object ----------------------------------------------------------------------------------

local function write(self, text)
  self.output:write(text)
  if self.output.flush then
    self.output:flush()
  end
end

local function draw(self, now)
  local width = self.width or terminal_width(self.output) or FALLBACK_WIDTH
  self.drawn = now
  write(self, ERASE .. line_of(self, now, width))
end

-- Ends the drawing, once: with the final line if the iterator came to its end, else without trace.
local function finish(self, complete)
  if self.finished then
    return
  end
  self.finished = true
  if not self.enabled then
    return
  end
  if complete and self.leave then
    draw(self, self.clock())
    write(self, "\n")
  elseif self.drawn then
    write(self, ERASE)
  end
end

function Progress:__call()
  local function deliver(control, ...)
    if control == nil then
      finish(self, true)
      return nil
    end
    self.control = control
    self.count = self.count + 1
    if self.enabled and not self.finished then
      local now = self.clock()
      if not self.drawn or now - self.drawn >= self.interval then
        draw(self, now)
      end
    end
    return control, ...
  end
  if self.closed then
    return nil
  end
  if self.enabled and not self.drawn then
    draw(self, self.clock())
  end
  return deliver(self.iterator(self.state, self.control))
end

-- Erases an unfinished bar, and closes what the wrapped iterator gave for `for` to close.
function Progress:close()
  if self.closed then
    return
  end
  self.closed = true
  local _ <close> = self.closing
  finish(self, false)
end

function Progress:__close()
  self:close()
end

function Progress:__tostring()
  local state = self.closed and "closed" or self.finished and "finished" or "running"
  return string.format("concur.progress: %d of %s, %s", self.count, self.total or "?", state)
end

-- Iterators of this library protect their metatables, hence debug.getmetatable.
local function has_metamethod(x, name)
  local mt = debug.getmetatable(x)
  return type(mt) == "table" and mt[name] ~= nil
end

local function check_options(options)
  if options == nil then
    return {}
  elseif type(options) ~= "table" then
    error("concur.progress: options must be a table, got " .. type(options), 4)
  end
  for name, value in pairs(options) do
    local expected = OPTIONS[name]
    if not expected then
      error(string.format("concur.progress: unknown option '%s'", tostring(name)), 4)
    elseif expected == "integer" and math.type(value) ~= "integer" then
      local message = "concur.progress: option '%s' must be an integer, got %s"
      error(message:format(name, math.type(value) or type(value)), 4)
    elseif expected ~= "any" and expected ~= "integer" and type(value) ~= expected then
      local message = "concur.progress: option '%s' must be a %s, got %s"
      error(message:format(name, expected, type(value)), 4)
    elseif type(value) == "number" and (value < 0 or value ~= value) then
      error(string.format("concur.progress: option '%s' must be 0 or more", name), 4)
    end
  end
  return options
end

-- Sorts out the arguments: (list, options), (iterator, options), or what an iterator's factory
-- returned, three or four values, and options as the fifth.
local function sort_arguments(...)
  local source, state, control, closing, options = ...
  if select("#", ...) <= 2 then
    state, options = nil, state
  end
  options = check_options(options)
  if type(source) == "function" or has_metamethod(source, "__call") then
    if closing == nil and has_metamethod(source, "__close") then
      closing = source
    end
    return options, source, state, control, closing
  elseif type(source) == "table" then
    return options, (ipairs(source)), source, 0, nil, #source
  end
  local message = "bad argument #1 to 'progress' (list or iterator expected, got %s)"
  error(message:format(type(source)), 3)
end

--[[@lua
---A progress bar around a list or an iterator: `for i, v in concur.progress(list) do`.
---
---Items pass through unchanged; a list gives `index, value`. Forms: `progress(list, options)`,
---`progress(iterator, options)`, and `progress(iterator, state, control, closing, options)` for
---what `pairs`, `io.lines` or `pool:map` return. Nothing is written unless `output` is a terminal.
---Suspends only if the iterator does. The bar is erased when the loop is left early, and what the
---iterator wanted closed is closed.
---
---Options: `total` (items; a list's length), `label`, `unit` ("files"), `output` (default
---`io.stderr`; any object with `write`), `enabled` (default: whether `output` is a terminal),
---`width` (columns; default the terminal's), `interval` (seconds between two drawings, 0.1),
---`leave` (default true: the full bar stays when the loop ends), `ascii` (default: whether the
---locale is not UTF-8), `clock` (default `concur.now`). Raises on any other option.
---@async
---@param source table|function a list, or an iterator
---@param ... any options, or the iterator's state, control and closing value and then options
---@return fun(): ... iterator
---@return nil
---@return nil
---@return any closing the iterator again, for `for` to close; it has `:close()`
function concur.progress(source, ...) end
]]
local function progress(...)
  local options, iterator, state, control, closing, length = sort_arguments(...)
  local output = options.output or io.stderr
  local enabled = options.enabled
  if enabled == nil then
    enabled = terminal_width(output) ~= nil
  end
  local ascii = options.ascii
  if ascii == nil then
    ascii = not locale_is_utf8()
  end
  local clock = options.clock or core.now
  local self = setmetatable({
    iterator = iterator,
    state = state,
    control = control,
    closing = closing, -- owned: closed with this object
    total = options.total or length,
    count = 0,
    figures = 0, -- columns kept for the figures; set below
    label = (options.label or ""):gsub("%c", " "),
    unit = options.unit or "",
    output = output,
    enabled = enabled,
    width = options.width,
    interval = options.interval or 0.1,
    leave = options.leave ~= false,
    ascii = ascii,
    clock = clock,
    started = clock(),
    drawn = nil, -- time of the last drawing
    finished = false, -- the line has been given back
    closed = false,
  }, Progress)
  self.figures = usual_figures(self.total, self.unit)
  return self, nil, nil, self
end

return progress
