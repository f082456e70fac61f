"""Figures of numbers: functions that draw into matplotlib axes and return them.

No pyplot and no global setting is touched. Colours are Okabe and Ito's, which colour-blind readers
tell apart; markers and line styles tell them apart in grey print.
"""
