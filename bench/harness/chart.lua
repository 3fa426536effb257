-- SPDX-License-Identifier: MIT
-- The results as a picture: an SVG that needs nothing but a browser.
--
-- One group of bars for each workload, on a logarithmic axis of multiples of concur's time, which
-- is the line at 1: bars to the right of it are slower than concur, bars to the left faster.

local peers = require "harness.peers"
local stats = require "harness.stats"

local COLORS = {
  limit = "#9aa0a6",
  luv = "#4285a8",
  cqueues = "#6aa84f",
  uvloop = "#e0a030",
  uvloop_protocol = "#b8860b",
  asyncio = "#c98a5a",
  node = "#8e6bbf",
}
local BAR, GAP = 11, 18 -- heights, in pixels
local LEFT, AXIS, RIGHT = 210, 560, 70 -- widths
local LOW, HIGH = -1.25, 3.5 -- decades

local function x_of(ratio)
  local decades = math.max(LOW, math.min(HIGH, math.log(ratio, 10)))
  return LEFT + (decades - LOW) / (HIGH - LOW) * AXIS
end

local function escape(text)
  return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }))
end

local chart = {}

---@param results table[] of bench/run.lua
---@return string svg
function chart.draw(results)
  local parts = {}
  local function add(format, ...)
    parts[#parts + 1] = format:format(...)
  end

  local y = 60
  for _, result in ipairs(results) do
    if result.samples.concur then
      local top = y
      for _, name in ipairs(peers.order) do
        local samples = COLORS[name] and result.samples[name]
        if samples then
          local ratio = stats.ratio(samples, result.samples.concur).median
          local from, to = x_of(1), x_of(ratio)
          add('<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>', math.min(from, to), y,
            math.abs(to - from), BAR - 2, COLORS[name])
          add('<text x="%.1f" y="%d" class="figure">%s %.2f</text>', math.max(from, to) + 4, y + 9,
            name, ratio)
          y = y + BAR
        end
      end
      add('<text x="%d" y="%d" text-anchor="end">%s</text>', LEFT - 10, (top + y) // 2 + 3,
        escape(result.title))
      y = y + GAP
    end
  end

  local head = {}
  for decade = math.ceil(LOW), math.floor(HIGH) do
    local x = x_of(10.0 ^ decade)
    head[#head + 1] = ('<line x1="%.1f" x2="%.1f" y1="46" y2="%d" class="%s"/>'):format(x, x,
      y - GAP + 6, decade == 0 and "one" or "grid")
    head[#head + 1] = ('<text x="%.1f" y="40" text-anchor="middle">%g</text>'):format(x,
      10.0 ^ decade)
  end
  return ([[
<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">
<style>
  text { font: 12px sans-serif; fill: #333 } .figure { font-size: 9px; fill: #555 }
  .grid { stroke: #ddd } .one { stroke: #333 }
</style>
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="%d" y="18">time per operation, as a multiple of that of concur (right is slower)</text>
%s
%s
</svg>
]]):format(LEFT + AXIS + RIGHT, y, LEFT + AXIS + RIGHT, y, LEFT, table.concat(head, "\n"),
    table.concat(parts, "\n"))
end

return chart
