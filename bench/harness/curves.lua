-- SPDX-License-Identifier: MIT
-- The curves of bench/sweep.lua as a picture and as tables. Both axes are logarithmic.

local COLORS = { "#4285a8", "#e0a030", "#6aa84f", "#8e6bbf" }
local WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 150, 60, 40, 60
local COLUMNS = 2

local curves = {}

local function decades(value)
  return math.log(math.max(value, 1e-9), 10)
end

-- The decades that the axes begin and end with.
local function extremes(lines)
  local low_x, high_x, low_y, high_y = math.huge, 0, math.huge, 0
  for _, line in ipairs(lines) do
    for _, point in ipairs(line.points) do
      low_x, high_x = math.min(low_x, point.size), math.max(high_x, point.size)
      low_y, high_y = math.min(low_y, point.value), math.max(high_y, point.value)
    end
  end
  return { x0 = math.floor(decades(low_x)), x1 = math.ceil(decades(high_x)),
    y0 = math.floor(decades(low_y)), y1 = math.ceil(decades(high_y)) }
end

local function draw_one(add, curve, left, top)
  local axes = extremes(curve.lines)
  local x0, y0 = axes.x0, axes.y0
  local x1, y1 = math.max(axes.x1, x0 + 1), math.max(axes.y1, y0 + 1)
  local function x_of(size)
    return left + (decades(size) - x0) / (x1 - x0) * WIDTH
  end
  local function y_of(value)
    return top + HEIGHT - (decades(value) - y0) / (y1 - y0) * HEIGHT
  end
  add('<text x="%d" y="%d">%s: %s, over %s</text>', left, top - 10, curve.title, curve.unit,
    curve.over)
  for decade = x0, x1 do
    local x = x_of(10.0 ^ decade)
    add('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" class="grid"/>', x, x, top, top + HEIGHT)
    add('<text x="%.1f" y="%d" text-anchor="middle" class="figure">%d</text>', x, top + HEIGHT + 12,
      math.tointeger(10.0 ^ decade) or 1)
  end
  for decade = y0, y1 do
    local y = y_of(10.0 ^ decade)
    add('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" class="grid"/>', left, left + WIDTH, y, y)
    add('<text x="%d" y="%.1f" text-anchor="end" class="figure">%g</text>', left - 4, y + 3,
      10.0 ^ decade)
  end
  for i, line in ipairs(curve.lines) do
    local path = {}
    for _, point in ipairs(line.points) do
      path[#path + 1] = ("%.1f,%.1f"):format(x_of(point.size), y_of(point.value))
    end
    add('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>', table.concat(path, " "),
      COLORS[i])
    add('<text x="%d" y="%d" class="figure" style="fill:%s">%s</text>', left + 6, top + 11 * i,
      COLORS[i], line.label)
  end
end

---@param results table[] of bench/sweep.lua
---@return string svg
function curves.draw(results)
  local parts = {}
  local function add(format, ...)
    parts[#parts + 1] = format:format(...)
  end
  for i, curve in ipairs(results) do
    local column, row = (i - 1) % COLUMNS, (i - 1) // COLUMNS
    draw_one(add, curve, LEFT + column * (WIDTH + GAP + 20), TOP + row * (HEIGHT + GAP))
  end
  local width = LEFT + COLUMNS * (WIDTH + GAP + 20)
  local height = TOP + math.ceil(#results / COLUMNS) * (HEIGHT + GAP)
  return ([[
<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">
<style>
  text { font: 12px sans-serif; fill: #333 } .figure { font-size: 9px } .grid { stroke: #ddd }
</style>
<rect width="100%%" height="100%%" fill="#fff"/>
%s
</svg>
]]):format(width, height, width, height, table.concat(parts, "\n"))
end

local function figure(value)
  return value >= 100 and ("%.0f"):format(value) or ("%.1f"):format(value)
end

---@param results table[] of bench/sweep.lua
---@return string
function curves.markdown(results)
  local blocks = {}
  for _, curve in ipairs(results) do
    local head, rule = { curve.over .. ":" }, { "---" }
    for i, point in ipairs(curve.lines[1].points) do
      head[i + 1], rule[i + 1] = tostring(point.size), "--:"
    end
    local lines = { "| " .. table.concat(head, " | ") .. " |",
      "| " .. table.concat(rule, " | ") .. " |" }
    for _, line in ipairs(curve.lines) do
      local cells = { line.label }
      for i, point in ipairs(line.points) do
        cells[i + 1] = figure(point.value)
      end
      lines[#lines + 1] = "| " .. table.concat(cells, " | ") .. " |"
    end
    blocks[#blocks + 1] = table.concat(lines, "\n")
  end
  return table.concat(blocks, "\n\n") .. "\n"
end

return curves
